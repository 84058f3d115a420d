"""Everything a decision can say for itself: expected accuracies, learning rates, augmentations, cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.strategy import STRATEGIES
from finetune.strategy.cost import Cost
from finetune.strategy.decision import Decision
from finetune.strategy.invariance import Trial
from finetune.strategy.outlook import more_images_for
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.strategy.schedule import finetuning_lr, scaled_lr

if TYPE_CHECKING:
    from finetune.zoo.card import ModelCard

UNKNOWN = "not known without training"


@dataclass(frozen=True)
class Explanation:
    """A decision, the plan that follows from it, and what was found out on the way."""

    decision: Decision
    plan: Plan
    card: ModelCard
    stage_names: tuple[str, ...]
    classes: tuple[str, ...]
    trials: tuple[Trial, ...] = ()
    cost: Cost | None = None
    asked: frozenset[str] = frozenset()
    """Keys of the recipe's ``train`` section that the user set."""
    given: bool = False
    """Whether the plan was given instead of decided."""
    batch: int = 64
    """Images a step that the recipe asks for: what learning rates are scaled to."""

    def expected(self) -> list[tuple[str, str, tuple[float, float] | None]]:
        """(strategy, what it does, (accuracy, standard error) in shares) of every strategy but auto; None
        where only training would tell."""
        known = self.decision.expected
        return [(e.name, e.summary, known.get(e.name)) for e in STRATEGIES if e.name != "auto"]

    def stages(self) -> list[tuple[str, float, float]]:
        """(stage, accuracy, standard error) of the probe on each stage; empty where nothing was measured."""
        evidence = self.decision.evidence
        if evidence is None or evidence.blind:
            return []
        return [
            (name, *evidence.shown(score))
            for name, score in zip(self.stage_names, evidence.stages, strict=True)
        ]

    def rates(self) -> list[str]:
        """A sentence for each gradient phase: its learning rates and where they come from."""
        phases = [phase for phase in self.plan.phases if isinstance(phase, GradientPhase)]
        return list(dict.fromkeys(self._rates(phase) for phase in phases))

    def first_head(self) -> str | None:
        """A sentence where tuning begins with a head that chooses its stages."""
        first, *rest = self.plan.phases
        if not rest or not isinstance(first, ProbePhase) or len(first.candidates) == 1:
            return None
        return (
            "The first head reads the stages that separate best by cross-validation. On several of them an export is "
            "read by a file of code beside it instead of plain timm: probe.stages=last keeps that."
        )

    def more_images(self) -> int | None:
        """Further images a class for five points more of the linear head; None where that is not known."""
        return None if self.decision.evidence is None else more_images_for(self.decision.evidence)

    def to_dict(self) -> dict[str, Any]:
        """decision.json: plain values, the same whenever the same data are decided about."""
        measure, unfit = self.decision.measure, self.decision.unfit
        return {
            **self.decision.to_dict(),
            "strategies": [
                {
                    "name": name,
                    "does": does,
                    measure: found and found[0],
                    "se": found and found[1],
                    **({"unfit": unfit[name]} if name in unfit else {}),
                }
                for name, does, found in self.expected()
            ],
            "stages": [{"name": n, measure: a, "se": se} for n, a, se in self.stages()],
            "plan": self.plan.model_dump(mode="json"),
            "plan_given": self.given,
            "learning_rates": self.rates(),
            "augmentations": [trial.to_dict() for trial in self.trials],
            "images_a_class_for_5_points": self.more_images(),
        }

    def document(self) -> dict[str, Any]:
        """What ``--explain json`` prints: to_dict, and the time it will take."""
        return {**self.to_dict(), "seconds": None if self.cost is None else self.cost.to_dict()}

    def _rates(self, phase: GradientPhase) -> str:
        card, rest = self.card, f"the head at {phase.head_lr:.3g}"
        if phase.stage_decay != 1:
            rest += f", each stage further down at {phase.stage_decay:.2g} of the next one's"
        if phase.find_lr:
            return (
                f"Learning rate by a range test when phase {phase.name!r} begins; where it suggests none "
                f"{phase.lr:.3g}, {rest}."
            )
        if "lr" in self.asked:
            return f"Learning rate {phase.lr:.3g}, as asked; {rest}."
        if phase.trains != "all":
            what = "norms and biases" if phase.trains == "norms-biases" else "adapters"
            return f"Learning rate {phase.lr:.3g}, which is usual for {what}; {rest}."
        source = f"{card.source_lr:g} ({card.source_optimizer}, batch {card.source_batch}) of the pretraining"
        if phase.optimizer != card.source_optimizer:
            return f"Learning rate {phase.lr:.3g} for {phase.optimizer}, translated from {source}; {rest}."
        rule = scaled_lr if self.plan.init == "random" else finetuning_lr
        scaled = rule(card.source_lr, card.source_batch, self.batch, card.source_optimizer)
        tenths = 10 * phase.lr / scaled
        share = "the" if round(tenths, 2) == 10 else f"{tenths:.2g}/10 of the"
        which = "" if scaled == card.source_lr else f", which is {scaled:.3g} at a batch of {self.batch}"
        return f"Learning rate {phase.lr:.3g}: {share} {source}{which}; {rest}."
