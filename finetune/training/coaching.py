"""The coach of a run: told about each phase and row, it warns early and leaves coach.json at the end."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from finetune.coach.diagnose import diagnose_phases
from finetune.coach.finding import Facts
from finetune.coach.folder import FILE, phase_facts, report
from finetune.coach.live import Live
from finetune.files import atomic_write_json
from finetune.strategy.plan import GradientPhase
from finetune.training.metrics_log import read_metrics

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle
    from finetune.events import Listener
    from finetune.recipe import Recipe

_DISTORTING = ("mixup", "cutmix", "dropout", "drop_connect", "drop_path", "input_noise")
"""Keys of a phase that make training images harder than validation images."""


class Coaching:
    """Reads what the metrics log is given. It changes nothing in the training and keeps no state of its own:
    what a resumed run said before is found again from the rows."""

    def __init__(self, folder: Path, listener: Listener, enabled: bool) -> None:
        self.folder, self.listener, self.enabled = folder, listener, enabled
        self.trained = False
        self._live: Live | None = None

    def begin(self, index: int, facts: Facts) -> None:
        """A gradient phase begins, or goes on after the rows that are there."""
        self.trained = True
        self._live = Live(facts) if self.enabled else None
        if self._live is not None:
            for row in read_metrics(self.folder):
                if row.get("phase_index") == index:
                    self._live.read(row)

    def read(self, row: dict[str, Any]) -> None:
        """A row of the metrics; a finding that it made sure is told at once."""
        found = self._live.read(row) if self._live is not None else None
        if found is not None:
            change = f" Change: {found.change}" if found.change else ""
            self.listener.on_message(f"Coach: {found.text}{change}")

    def __enter__(self) -> Coaching:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write coach.json: of a training that failed too, for that is when it is read."""
        if self.enabled and self.trained:
            findings = diagnose_phases(read_metrics(self.folder), phase_facts(self.folder))
            atomic_write_json(self.folder / FILE, report(findings))


def facts_of(index: int, phase: GradientPhase, bundle: DataBundle, recipe: Recipe) -> Facts:
    """What the coach is told about a phase on these images."""
    distorted = phase.augment not in ("none", "light") or any(getattr(phase, k, 0) for k in _DISTORTING)
    return Facts(
        classes=len(bundle.classes),
        train_n=len(bundle.train),
        val_n=len(bundle.val),
        loss=getattr(phase, "loss", "cross-entropy"),
        label_smoothing=phase.label_smoothing,
        lr=phase.lr,
        head_lr=phase.head_lr,
        schedule=phase.schedule,
        warmup=phase.warmup,
        epochs=phase.epochs,
        batch=phase.batch_size * phase.accumulate,
        augment=phase.augment,
        distorted=distorted,
        val_fraction=recipe.data.val_fraction,
        keep=phase.keep,
        fitted_head=index > 0,
        task=bundle.task.name,
        clipped=phase.clip_grad is not None,
    )
