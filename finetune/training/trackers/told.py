"""The trackers of a run as one listener: rows of metrics.jsonl go in, and a tracker that fails is dropped."""

from __future__ import annotations

import importlib.util
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from finetune.errors import ConfigError, Interrupted, missing_extra
from finetune.events import Listener, Listeners
from finetune.files import atomic_write_json
from finetune.recipe import Recipe
from finetune.training.metrics_log import read_metrics
from finetune.training.trackers import TRACKERS
from finetune.training.trackers.base import Tracked, Tracker

MEMORY = "trackers.json"
"""In the run folder: what each tracker needs to go on with the same run."""
_PLACE = {"phase_index", "epoch", "epochs", "step", "steps"}
_TEST = ("accuracy", "log_loss", "balanced_accuracy", "macro_f1", "mean_ap", "micro_f1", "subset_accuracy", "mae",
         "rmse", "r2")  # fmt: skip


def require_trackers(names: tuple[str, ...]) -> None:
    """Raises ConfigError for a name that there is not and for a package that is not installed, all at once."""
    problems = []
    for name in names:
        try:
            tracker = TRACKERS.get(name)
        except ConfigError as error:
            problems.append(f"train.trackers: {error}")
            continue
        spec = importlib.util.find_spec(tracker.package)
        if spec is None or spec.origin is None:  # a folder of that name is no package
            problems.append(missing_extra(f"The tracker {name}", tracker.package, tracker.extra))
    if problems:
        raise ConfigError("\n".join(problems))


@contextmanager
def tracked(recipe: Recipe, folder: Path, listener: Listener, resume: bool) -> Iterator[Listener]:
    """The listener, and behind it the trackers that the recipe names, open inside the block."""
    if not recipe.train.trackers:
        yield listener
        return
    with Trackers(recipe, folder, listener, resume) as trackers:
        yield Listeners(listener, trackers)


class Trackers(Listener):
    """Sends each row of metrics.jsonl once, with a step that goes on from phase to phase.

    Trackers are opened at the first row, in the process that writes the rows. What a tracker raises costs one
    message and the tracker, never the training.
    """

    def __init__(self, recipe: Recipe, folder: Path, listener: Listener, resume: bool) -> None:
        self.recipe, self.folder, self.resumed = recipe, folder, resume
        self._message = listener.on_message
        self._open: dict[str, Tracker] | None = None
        self._steps: dict[int, int] = {}
        self._step = self._row = 0
        # Rows that the interrupted attempt sent; those after its last checkpoint are about to come again.
        self._sent = len(read_metrics(folder)) if resume else 0

    def on_row(self, row: dict[str, Any]) -> None:
        """A row was written."""
        earlier: list[tuple[int, dict[str, Any]]] = []
        if self._open is None and self.resumed:
            earlier = [(self._place(kept), kept) for kept in read_metrics(self.folder)[:-1]]
            self._row = len(earlier)
        step = self._place(row)
        if self._open is None:
            self._start(step if self.resumed else None)
            # Purging a step takes the kept rows of that very step with it.
            for at, kept in earlier:
                if at == step:
                    self._send(kept, step, again=True)
        self._send(row, step, again=self._row < self._sent)
        self._row += 1

    def on_result(self, result: dict[str, Any]) -> None:
        """The final figures, and the pictures that were drawn."""
        if self._open is None:
            self._start(None)
        test = {f"test/{key}": value for key in _TEST if _number(value := result.get("test", {}).get(key))}
        pictures = sorted(self.folder.glob("*.png"))

        def finish(tracker: Tracker) -> None:
            tracker.log(test, self._step)
            for path in pictures:
                tracker.picture(f"figures/{path.stem}", path)

        self._each(finish)
        self._close(True)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(kind is None)

    def _start(self, first: int | None) -> None:
        """Open every tracker; what each remembers is kept in the run folder."""
        memory = _memory(self.folder / MEMORY) if self.resumed else {}
        flat = dict(_flat(self.recipe.model_dump(mode="json")))
        self._open = {}
        for name in self.recipe.train.trackers:
            run = Tracked(self.folder, flat, self.recipe.to_yaml(), first, memory.setdefault(name, {}))
            made = self._guarded(name, lambda name=name, run=run: TRACKERS.get(name)(run))  # type: ignore[misc]
            if made is not None:
                self._open[name] = made
        atomic_write_json(self.folder / MEMORY, memory)

    def _send(self, row: Mapping[str, Any], step: int, again: bool) -> None:
        values = dict(_values(row))
        if values:
            self._each(lambda tracker: None if again and not tracker.replaces else tracker.log(values, step))

    def _place(self, row: Mapping[str, Any]) -> int:
        """The global step: phases follow each other. Rows without a place stand where the last one stood."""
        phase, step = row.get("phase_index"), row.get("step")
        if isinstance(phase, int) and isinstance(step, int):
            self._steps[phase] = int(row.get("steps", step))
            self._step = step + sum(n for other, n in self._steps.items() if other < phase)
        return self._step

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list((self._open or {}).items()):
            self._guarded(name, lambda tracker=tracker: tell(tracker))  # type: ignore[misc]

    def _guarded(self, name: str, call: Callable[[], Any]) -> Any:
        """What ``call`` returns. Where it raises, the tracker is off and the user is told once."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # those of other people's code help nobody here
                return call()
        except Interrupted:
            raise
        except Exception as error:
            if self._open is not None:
                self._open.pop(name, None)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._message(f"The tracker {name} failed and is off for this run: {reason}")

    def _close(self, finished: bool) -> None:
        self._each(lambda tracker: tracker.close(finished))
        self._open = {}


def _values(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Finite numbers of a row by group: train/ for steps, val/ and epoch/ for epochs."""
    kind = str(row.get("kind", "row"))
    group = "train" if kind == "step" else kind
    for key, value in row.items():
        if key not in _PLACE and _number(value):
            name = f"val/{key.removeprefix('val_')}" if key.startswith("val_") else f"{group}/{key}"
            yield name, float(value)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:  # left to the strategy
            yield f"{prefix}{key}", value


def _memory(path: Path) -> dict[str, dict[str, str]]:
    """What was remembered; a lost file costs a second run in the tracker, no more."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): dict(kept) for name, kept in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
