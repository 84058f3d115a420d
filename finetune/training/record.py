"""training.json: what was chosen by measuring and what each phase trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from finetune import ranks
from finetune.errors import RunError
from finetune.files import atomic_write_json

T = TypeVar("T")


class Record:
    """training.json: choices made by measuring, kept for a resumed run, and facts about each phase."""

    def __init__(self, path: Path, keep: bool) -> None:
        self.path = path
        self.tree: dict[str, Any] = ranks.on_main(
            lambda: _read_record(path) if keep and path.exists() else {"phases": {}}
        )

    def once(self, key: str, choose: Callable[[], T]) -> T:
        """The value chosen earlier in this run, or a new choice, saved; the main process chooses for all."""
        if key not in self.tree:
            self.tree[key] = ranks.on_main(choose)
            self.save()
        value: T = self.tree[key]
        return value

    def phase(self, index: int) -> dict[str, Any]:
        """The facts about one phase, to be filled in; save() writes them."""
        facts: dict[str, Any] = self.tree["phases"].setdefault(str(index), {})
        return facts

    def save(self) -> None:
        """Write the file, atomically."""
        if ranks.main():
            atomic_write_json(self.path, self.tree)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        tree: Any = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(tree["phases"], dict):
            return dict(tree)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} cannot be read ({type(error).__name__}: {error}), so the run cannot go on. Start a new one."
        ) from None
    raise RunError(f"{path} was not written by finetune, so the run cannot go on. Start a new one.")
