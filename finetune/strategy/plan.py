"""A Plan: what was decided, as a list of phases that one executor carries out.

A plan prints as a table, saves as YAML and can be written by hand. A phase never names its strategy:
it says which stages train, how the head is solved, at which learning rates, for how long.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProbePhase(_Frozen):
    """Fit a linear head in closed form on cached features of the frozen backbone."""

    kind: Literal["probe"] = "probe"
    name: str = "linear probe"
    candidates: tuple[tuple[int, ...], ...]
    """Sets of stage indices (input to head, 0-based) whose pooled taps feed the head. With several
    candidates the one with the best cross-validated log-loss is taken; ties go to the first."""
    solver: Literal["logistic", "ridge"] = "logistic"
    lambdas: tuple[float, ...] = Field(default=())
    """L2 strengths to try; empty = the solver's own log grid."""
    folds: int = 5
    fit_on: Literal["train", "train+val"] = "train"
    """``train+val`` when no later phase needs the validation split: lambda is cross-validated anyway."""


class GradientPhase(_Frozen):
    """Train some stages and the head by gradient steps."""

    kind: Literal["gradient"] = "gradient"
    name: str = "finetune"
    train_from: int
    """Index of the first stage that trains; everything below is frozen, running statistics too.
    ``num_stages`` trains the head alone, 0 trains everything, 1 all but the stem."""
    epochs: int
    optimizer: str = "sgd"
    lr: float
    """Learning rate of the last stage at its peak, already scaled to the batch size."""
    head_lr: float
    """Learning rate of the head at its peak."""
    stage_decay: float = 1.0
    """Each stage further from the head gets this factor of the LR of the next one (layer-wise decay)."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup: float = 0.1
    """Share of the steps spent in linear warm-up."""
    batch_size: int = 64
    accumulate: int = 1
    """Micro-batches a step; the effective batch is batch_size * accumulate."""
    clip_grad: float | None = 1.0
    label_smoothing: float = 0.0
    ema: float | None = None
    """Decay of the exponential moving average of the weights, per step; None turns it off."""
    augment: str = "standard"
    batch_norm: Literal["frozen", "train"] = "frozen"
    """Whether norm layers of *trained* stages update their running statistics."""


Phase = ProbePhase | GradientPhase


class Plan(_Frozen):
    """The phases, in order, and how the weights start."""

    strategy: str
    init: Literal["pretrained", "random"] = "pretrained"
    phases: tuple[Phase, ...]
    why: str = ""
    """One sentence for the reader."""

    def rows(self) -> list[dict[str, str]]:
        """One row a phase for printing: what trains, how, how long."""
        rows = []
        for phase in self.phases:
            if isinstance(phase, ProbePhase):
                taps = " | ".join("+".join(map(str, c)) for c in phase.candidates)
                rows.append({"phase": phase.name, "trains": "head", "how": f"{phase.solver}, stages {taps}",
                             "lr": "-", "epochs": "-"})
            else:
                rows.append({"phase": phase.name, "trains": f"stages {phase.train_from}.. + head",
                             "how": f"{phase.optimizer}, {phase.schedule}, {phase.augment}",
                             "lr": f"{phase.lr:.2g} (head {phase.head_lr:.2g})", "epochs": str(phase.epochs)})
        return rows
