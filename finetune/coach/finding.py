"""What the coach is told (Facts) and what it says (Finding)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import Self

Severity = Literal["error", "warning", "note"]
RANK: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
"""error: training is broken; warning: it costs accuracy; note: good to know."""


@dataclass(frozen=True)
class Facts:
    """What the metrics do not say about a phase. None: not known, and no rule that needs it speaks."""

    classes: int | None = None
    train_n: int | None = None
    val_n: int | None = None
    loss: str = "cross-entropy"
    """Another loss has another value where the network guesses."""
    label_smoothing: float = 0.0
    lr: float | None = None
    """Peak learning rate of the body."""
    head_lr: float | None = None
    schedule: str | None = None
    warmup: float = 0.0
    """Share of the steps."""
    epochs: int | None = None
    batch: int | None = None
    """Images an optimizer step."""
    augment: str | None = None
    distorted: bool = False
    """Whether training images are made harder than validation images (strong augmentation, mixing, dropout):
    then the training accuracy is too low to be compared with the validation accuracy."""
    val_fraction: float | None = None
    keep: str | None = None
    """Whether the best epoch's weights are kept, or the last's."""
    fitted_head: bool = False
    """Whether an earlier phase solved or trained the head: the first loss is then not that of guessing."""
    task: str = "single-label"
    """Of another task no accuracies are there, and only rules that need none speak."""
    clipped: bool = False
    """Whether gradients are clipped."""
    rollbacks: int = 0
    """How often the phase diverged and was taken back to a good state."""
    finished: bool = True
    """Whether the phase is over; while it runs only rules that can be sure early speak."""

    @classmethod
    def from_mapping(cls, tree: dict[str, Any]) -> Self:
        """Known keys of a mapping; the rest is ignored, so that files of other versions can be read."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in tree.items() if key in names})

    def to_dict(self) -> dict[str, Any]:
        """For training.json."""
        return dataclasses.asdict(self)

    @property
    def guessing(self) -> float | None:
        """ln K: the cross-entropy (nats) of equal probabilities, with label smoothing or without; None where K is
        not known or the loss is another."""
        known = self.classes and self.classes > 1 and self.loss == "cross-entropy"
        return math.log(self.classes) if known and self.classes else None

    @property
    def floor(self) -> float:
        """The least training loss that label smoothing allows: the entropy of the smoothed target, in nats.

        >>> round(Facts(classes=10, label_smoothing=0.1).floor, 3), Facts(classes=10).floor
        (0.5, 0.0)
        """
        if not self.label_smoothing or not self.classes or self.loss != "cross-entropy":
            return 0.0
        other = self.label_smoothing / self.classes
        right = 1 - self.label_smoothing + other
        return -right * math.log(right) - (self.classes - 1) * other * math.log(other)


@dataclass(frozen=True)
class Finding:
    """One diagnosis: what was seen, how sure, and what to change."""

    name: str
    """Of NAMES, for programs."""
    severity: Severity
    sentence: str
    """What was seen, with numbers and epochs."""
    remedy: str = ""
    """What to do, in words; empty where there is nothing to do."""
    key: str | None = None
    """The recipe key to change, where one does it."""
    value: Any = None
    """What to change it to."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """The numbers that decided."""
    phase: str | None = None

    @property
    def change(self) -> str:
        """The key as it is typed: ``train.lr=0.001``; empty where no key mends it."""
        if self.key is None:
            return ""
        shown = f"{float(f'{self.value:.2g}'):g}" if isinstance(self.value, float) else str(self.value)
        return f"{self.key}={shown}"

    @property
    def text(self) -> str:
        """Sentence and remedy, for the screen."""
        return " ".join(filter(None, [self.sentence, self.remedy]))

    def to_dict(self) -> dict[str, Any]:
        """For coach.json and result.json."""
        return {**dataclasses.asdict(self), "change": self.change}


NAMES = (
    "wrong direction", "diverged", "lr too high", "bad initialisation", "lr too low", "label noise", "overfitting",
    "plateau", "underfitting", "validation too small", "healthy",
)  # fmt: skip
"""All diagnoses, the ones that explain others first."""
