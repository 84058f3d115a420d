"""last.pt and what belongs to it: whole or not there, and consistent with each other at every moment.

The best weights, and the good state to go back to, lie in files of their own that carry phase and epoch or step
in their names; last.pt says which ones belong to it. New ones are written first, then last.pt, then the older are
removed: a process killed between any two of these steps finds a last.pt with its own. Only tensors and plain
values are stored, so that reading never runs code.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune import ranks
from finetune.errors import RunError, must
from finetune.files import atomic_path, remove_leftovers

FORMAT = 2
_LAST = "last.pt"


@dataclass(frozen=True)
class Best:
    """The best epoch so far and its weights, on the CPU."""

    phase: int
    epoch: int
    """Counted from 1; 0 is before the phase's first step."""
    accuracy: float
    loss: float
    tensors: dict[str, Tensor]

    def beaten_by(self, accuracy: float, loss: float) -> bool:
        """Higher accuracy, or the same at a lower loss."""
        return (accuracy, -loss) > (self.accuracy, -self.loss)

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"best-{self.phase}-{self.epoch}.pt"


@dataclass(frozen=True)
class Good:
    """A state to go back to should training diverge, on the CPU: a job's without the weights that never change."""

    phase: int
    step: int
    state: dict[str, Any]
    best: Best | None
    """The best at that time."""

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"good-{self.phase}-{self.step}.pt"


class Checkpoints:
    """The checkpoints/ folder of a run. Of several processes the main one writes and reads, for all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: dict[str, Any], best: Best | None, good: Good | None = None) -> None:
        """Write the state and what belongs to it. Raises RunError (full disk); what was there stays whole."""
        if not ranks.main():
            return
        for scored in (best, good.best if good else None):
            if scored is not None and not (self.folder / scored.file).exists():
                write_state(self.folder / scored.file, vars(scored))
        if good is not None and not (self.folder / good.file).exists():
            write_state(
                self.folder / good.file, {**vars(good), "best": good.best.file if good.best else None}
            )
        names = {"best": best.file if best else None, "good": good.file if good else None}
        write_state(self.folder / _LAST, {**state, "format": FORMAT, **names})
        self._remove_others(best, good)

    def load(self) -> tuple[dict[str, Any], Best | None] | None:
        """The last state and its best weights, or None where nothing was saved yet; ``state["good"]`` is a Good.

        What a killed writer left behind is removed. Raises RunError.
        """
        return ranks.on_main(self._load)

    def _load(self) -> tuple[dict[str, Any], Best | None] | None:
        remove_leftovers(self.folder)
        if not (self.folder / _LAST).exists():
            return None
        state = read_state(self.folder / _LAST)
        if state.get("format") != FORMAT:
            raise RunError(
                must(
                    f"The format of {self.folder / _LAST}",
                    str(FORMAT),
                    state.get("format"),
                    "It was written by another version of finetune; start a new run.",
                )
            )
        best = Best(**read_state(self.folder / state["best"])) if state["best"] else None
        if state["good"]:
            kept = read_state(self.folder / state["good"])
            same = best is not None and kept["best"] == best.file
            then = best if same else Best(**read_state(self.folder / kept["best"])) if kept["best"] else None
            state["good"] = Good(**{**kept, "best": then})
        self._remove_others(best, state["good"])
        return state, best

    def save_start(self, phase: int, tensors: dict[str, Tensor]) -> None:
        """Keep the weights that a phase begins with, for as long as it may be gone on with. Raises RunError."""
        if ranks.main():
            write_state(self.folder / f"start-{phase}.pt", {"tensors": tensors})

    def load_start(self, phase: int) -> dict[str, Tensor]:
        """What save_start kept. Raises RunError where the file is missing or damaged."""
        tensors: dict[str, Tensor] = ranks.on_main(
            lambda: read_state(self.folder / f"start-{phase}.pt")["tensors"]
        )
        return tensors

    def drop_start(self, phase: int) -> None:
        """The phase is over."""
        if ranks.main():
            (self.folder / f"start-{phase}.pt").unlink(missing_ok=True)

    def _remove_others(self, best: Best | None, good: Good | None) -> None:
        names = {thing.file for thing in (best, good, good.best if good else None) if thing is not None}
        for other in (*self.folder.glob("best-*.pt"), *self.folder.glob("good-*.pt")):
            if other.name not in names:
                with contextlib.suppress(FileNotFoundError):
                    other.unlink()

    def clear(self) -> None:
        """Remove what an earlier attempt left; called before a run's first step."""
        if not ranks.main():
            return
        remove_leftovers(self.folder)
        for path in self.folder.glob("*.pt"):
            path.unlink()


def rng_state() -> dict[str, Any]:
    """torch's random state on the CPU and every GPU."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """The inverse of rng_state."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def write_state(path: Path, value: dict[str, Any]) -> None:
    """Tensors and plain values, atomically. Raises RunError (full disk)."""
    with atomic_path(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(value, file)
        except RuntimeError as error:  # torch's zip writer hides the operating system's error
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_state(path: Path) -> dict[str, Any]:
    """The inverse of write_state, on the CPU. Raises RunError where the file is missing or damaged."""
    try:
        value: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{path} is missing, so the run cannot go on. Start a new one.") from None
    except Exception as error:  # torch meets damaged bytes with errors of any kind, KeyError among them
        reason = str(error).partition("\n")[0].partition(". ")[0] or "it is empty"
        raise RunError(f"{path} cannot be read: {reason}. Start a new run.") from error
    return value
