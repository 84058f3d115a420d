"""Training as it is watched: a progress bar on a terminal, a line an epoch in a file or pipe."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from finetune.cli import screen

if TYPE_CHECKING:
    from rich.progress import Progress

_QUIET_SECONDS = 15.0  # without a terminal, say something at least this often


class Bar:
    """One line that shows the work in hand; ``close`` leaves the screen as it was."""

    def __init__(self) -> None:
        self.live = screen.is_terminal()
        self._progress: Progress | None = None
        self._task: Any = None
        self._last = time.monotonic()
        self._label = ""
        self._epoch: dict[str, Any] | None = None

    def work(self, what: str, done: int, total: int) -> None:
        """Images read, features computed."""
        if self.live:
            self._show(f"{what}", done, total, f"{done:,}/{total:,}")
            if done >= total:
                self.close()
        elif done < total and self._due(what):
            screen.say(f"{what}: {done:,} of {total:,}")

    def step(self, row: dict[str, Any]) -> None:
        """An optimizer step: loss, accuracy, images/s, time left."""
        if self.live:
            self._show(
                f"epoch {row['epoch']}/{row['epochs']}",
                row["step"],
                row["steps"],
                step_text({**row, **self._val()}),
            )
        elif self._due("training"):
            screen.say(f"  step {row['step']}/{row['steps']}  {step_text(row)}")

    def epoch(self, row: dict[str, Any]) -> None:
        """The end of an epoch: a line where no bar shows it; on a terminal only the last one stays."""
        self._epoch = row
        if not self.live:
            screen.say(epoch_text(row))
            self._last = time.monotonic()

    def close(self) -> None:
        """Stop drawing."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None
        if self.live and self._epoch is not None:
            screen.say(f"  {epoch_text(self._epoch)}")
        self._epoch = None

    def _val(self) -> dict[str, Any]:
        """The last validation accuracy, shown through the next epoch."""
        kept = ("val_accuracy", "val_f1", "val_r2")
        return {} if self._epoch is None else {key: self._epoch.get(key) for key in kept}

    def _show(self, label: str, done: int, total: int, text: str) -> None:
        if self._progress is None:
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (
                TextColumn("  {task.description}", markup=False),
                BarColumn(bar_width=10),
                TextColumn("{task.fields[text]}", markup=False),
            )
            self._progress = Progress(
                *columns, console=screen.console(), transient=True, refresh_per_second=8
            )
            self._progress.start()
            self._task = self._progress.add_task(label, total=total, text=text)
        self._progress.update(self._task, description=label, completed=done, total=total, text=text)

    def _due(self, what: str) -> bool:
        now = time.monotonic()
        if what != self._label:
            self._label, self._last = what, now
        if now - self._last < _QUIET_SECONDS:
            return False
        self._last = now
        return True


def step_text(row: dict[str, Any]) -> str:
    """
    >>> step_text({"loss": 0.5321, "accuracy": 0.8125, "images_per_second": 312.4, "eta_seconds": 75})
    'loss 0.532  acc 81.2%  312 img/s  1 min 15 s left'
    """
    parts = []
    scores = {"accuracy": "acc", "f1": "F1", "r2": "R2"}
    if row.get("loss") is not None:
        parts.append(f"loss {row['loss']:.3f}")
    for key, name in scores.items():
        if row.get(key) is not None:
            parts.append(f"{name} {_score(key, row[key])}")
        if row.get(f"val_{key}") is not None:
            parts.append(f"val {_score(key, row[f'val_{key}'])}")
    if row.get("images_per_second"):
        parts.append(f"{row['images_per_second']:.0f} img/s")
    if row.get("eta_seconds") is not None:
        parts.append(f"{screen.duration(row['eta_seconds'])} left")
    return "  ".join(parts)


def _score(key: str, value: float) -> str:
    """R2 is no share where it is negative."""
    return f"{value:.3f}" if key == "r2" else screen.percent(value)


def epoch_text(row: dict[str, Any]) -> str:
    """
    >>> epoch_text({"epoch": 3, "epochs": 20, "loss": 0.5, "accuracy": 0.8, "val_accuracy": 0.85})
    'epoch  3/20  loss 0.500  acc 80.0%  val 85.0%'
    """
    return f"epoch {row['epoch']:>{len(str(row['epochs']))}}/{row['epochs']}  {step_text(row)}"
