"""What happens between the setting-up of a gradient phase and its first step: its rates, and the preflight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finetune.data.imageset import ImageSet
from finetune.strategy.plan import GradientPhase
from finetune.training.job import Job
from finetune.training.lr_find import find_lr
from finetune.training.preflight import preflight
from finetune.training.record import Record

Say = Callable[[str], None]


def rates_found(job: Job, record: Record, say: Say) -> GradientPhase:
    """The phase with the learning rates of a range test, which is run once for all phases that train alike: a
    refit takes those of the first fit, a resumed run its own."""

    def measure() -> dict[str, Any]:
        found = find_lr(job)
        say(found.story())
        lr, head_lr = found.usable()
        return {**found.to_dict(), "used": {"lr": lr, "head_lr": head_lr}}

    used = record.once(f"learning rates of {_kind(job.phase)}", measure)["used"]
    say(f"Learning rates by range test: {used['lr']:.2g}, head {used['head_lr']:.2g}.")
    return job.phase.model_copy(update=used)


def checked(job: Job, images: ImageSet, record: Record, say: Say) -> None:
    """The preflight, once for all phases that train alike. Raises TrainingError where a check fails."""

    def look() -> dict[str, Any]:
        report = preflight(job, images)
        for line in report.lines():
            say(line)
        report.require()
        return report.to_dict()

    record.once(f"preflight of {_kind(job.phase)}", look)


def _kind(phase: GradientPhase) -> str:
    """What phases have in common that need to be looked at once only."""
    return f"{phase.trains} from stage {phase.train_from} by {phase.optimizer}"
