"""A race: near a border of the table the neighbours are trained for a share of the time, and compared.

Successive halving (Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943) with two changes. Every arm
runs a complete short schedule, never the beginning of a long one, since a truncated cosine flatters whatever
learns fast. And an arm leaves only if it is worse on the same validation images by more than one standard error of
the paired difference: on few images nobody is thrown out by luck, and what is left of a tie is the decision's
own choice, or else the cheapest.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.errors import FinetuneError, Interrupted
from finetune.events import Listener, StepsOnly
from finetune.strategy.plan import GradientPhase, Phase, Plan

if TYPE_CHECKING:
    from finetune.advice import Setup
    from finetune.recipe import Recipe
    from finetune.strategy.decision import Decision

SHORTEST = 0.1
"""An arm runs at least this share of its epochs; where the budget does not reach for that, it does not run."""


FEWEST = 20
"""Validation images below which nothing can be told."""


@dataclass(frozen=True)
class Lap:
    """What one arm did in one round."""

    arm: str
    share: float
    """Of the plan's epochs; 1 for arms without any."""
    losses: np.ndarray
    """(V,) log-loss of each validation image, nats."""
    accuracy: float
    seconds: float
    """Estimated cost of the arm's full plan."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"arm": self.arm, "share": round(self.share, 3), "log_loss": float(self.losses.mean()),
                "accuracy": self.accuracy, "seconds_of_full_plan": round(self.seconds, 1)}  # fmt: skip


@dataclass(frozen=True)
class Entrant:
    """An arm: its plan and what that costs in seconds."""

    plan: Plan
    seconds: float

    @property
    def name(self) -> str:
        """The strategy's name."""
        return self.plan.strategy


def shortened(plan: Plan, share: float) -> Plan:
    """The plan with this share of its epochs, validation images held out of all of it, and no refit.

    >>> from finetune.strategy.plan import ProbePhase
    >>> long = GradientPhase(train_from=1, epochs=40, lr=0.1, head_lr=0.1, blend=(0.0, 1.0))
    >>> short = shortened(Plan(strategy="x", phases=(ProbePhase(candidates=((1,),)), long)), 0.25)
    >>> short.phases[1].epochs, short.phases[1].blend
    (10, ())
    """
    phases: list[Phase] = []
    for phase in plan.phases:
        if isinstance(phase, GradientPhase):
            if phase.fit_on == "train+val":
                continue
            # The safety net would choose on the images that the arms are compared on.
            changes: dict[str, Any] = {
                "epochs": max(1, round(phase.epochs * share)),
                "blend": (),
                "keep": "last",
            }
            changes["time"] = phase.time and phase.time * share
            phases.append(phase.model_copy(update=changes))
        elif not phase.restart:
            phases.append(phase.model_copy(update={"fit_on": "train"}))
    return plan.model_copy(update={"phases": tuple(phases)})


def survivors(laps: Sequence[Lap]) -> list[Lap]:
    """Those within one standard error of the best, by paired differences of log-loss on the same images."""
    best = min(laps, key=lambda lap: float(lap.losses.mean()))
    left = []
    for lap in laps:
        difference = lap.losses - best.losses
        error = (
            float(difference.std(ddof=1) / math.sqrt(len(difference))) if len(difference) > 1 else math.inf
        )
        if lap is best or float(difference.mean()) <= error:
            left.append(lap)
    return left


def winner(laps: Sequence[Lap], preferred: str) -> Lap:
    """Of those that are left: the preferred one if it is among them, else the cheapest."""
    left = survivors(laps)
    return next((lap for lap in left if lap.arm == preferred), min(left, key=lambda lap: lap.seconds))


def share_for(entrants: Sequence[Entrant], seconds: float) -> float:
    """The share of their epochs that all of them can run in this time; at most a half.

    >>> plan = Plan(strategy="x", phases=(GradientPhase(train_from=0, epochs=9, lr=0.1, head_lr=0.1),))
    >>> share_for([Entrant(plan, 60.0), Entrant(plan, 140.0)], 50.0)
    0.25
    """
    total = sum(entrant.seconds for entrant in entrants if _trains(entrant.plan))
    return min(0.5, seconds / total) if total > 0 else 0.5


def run_race(
    entrants: Sequence[Entrant], setup: Setup, recipe: Recipe, folder: Path, budget: float, listener: Listener
) -> list[Lap]:
    """Two rounds at most; the laps of the last one, the decision's own arm first.

    The second round, among those that the first left, gets the time that is left. Arms that fail (a network
    without what they train) drop out with a line. Below ``folder`` each arm has a run folder of its own, removed
    again. Raises KeyboardInterrupt where a signal stops it.
    """
    running, spent = list(entrants), 0.0
    laps: list[Lap] = []
    for number in (1, 2):
        left = budget - spent
        share = share_for(running, left / 2 if number == 1 else left)
        if share < SHORTEST or (number == 2 and share <= laps[0].share * 1.5):
            break
        round_laps = []
        for entrant in running:
            listener.on_message(f"Race, round {number}: {entrant.name}, {share:.0%} of its epochs.")
            try:
                round_laps.append(
                    _lap(entrant, share, setup, recipe, folder / f"{number}-{entrant.name}", listener)
                )
            except Interrupted:
                # The arm's folder is gone; the run's own one says how to go on.
                raise KeyboardInterrupt from None
            except FinetuneError as error:
                listener.on_message(f"{entrant.name} drops out: {error}")
        spent += sum(entrant.seconds * share for entrant in running if _trains(entrant.plan))
        if not round_laps:
            break
        laps = round_laps
        names = {lap.arm for lap in survivors(laps)}
        running = [entrant for entrant in running if entrant.name in names]
        if len(running) < 2:
            break
    return laps


def race_is_possible(decision: Decision, strategy: str, held_out: int) -> Decision | None:
    """None, or the decision with the reason why there is no race."""
    if strategy != "auto" or decision.cell is None:
        said = f"No race: strategy {strategy} was asked for, and auto alone has neighbours to race against."
    elif decision.measure != "accuracy":
        said = "No race: arms are compared by the log-loss of classes, and no classes are learned here."
    elif held_out < FEWEST:
        said = f"No race: {held_out} validation images cannot tell strategies apart; {FEWEST} are the least."
    else:
        return None
    return replace(decision, reasons=(*decision.reasons, said))


def raced(decision: Decision, laps: Sequence[Lap], budget: float) -> Decision:
    """The decision with the race's result in it."""
    if not laps:
        said = f"A race did not fit into {budget:.0f} s: even a tenth of the epochs takes longer."
        return replace(decision, reasons=(*decision.reasons, said))
    won = winner(laps, decision.chosen)
    others = sorted((lap for lap in laps if lap is not won), key=lambda lap: float(lap.losses.mean()))
    told = ", ".join(f"{lap.arm} {lap.losses.mean():.3f} ({lap.accuracy:.1%})" for lap in (won, *others))
    said = (
        f"Race on {len(won.losses)} validation images, {won.share:.0%} of the epochs: log-loss {told}. "
        f"{won.arm} is taken"
        + (
            ": the others are not better by more than the standard error."
            if won.arm == decision.chosen
            else "."
        )
    )
    return replace(
        decision,
        chosen=won.arm,
        runner_up=others[0].arm if others else decision.runner_up,
        reasons=(*decision.reasons, said),
        race=tuple(lap.to_dict() for lap in laps),
    )


def _trains(plan: Plan) -> bool:
    return any(isinstance(phase, GradientPhase) for phase in plan.phases)


def _lap(
    entrant: Entrant, share: float, setup: Setup, recipe: Recipe, folder: Path, listener: Listener
) -> Lap:
    from finetune.evaluation.predict import predict_images
    from finetune.training.execute import execute

    folder.mkdir(parents=True, exist_ok=True)
    recipe = recipe.override("train.preflight=false")  # the run that follows has its own
    try:
        plan = shortened(entrant.plan, share)
        backbone = execute(
            plan, copy.deepcopy(setup.backbone), setup.bundle, recipe, folder, StepsOnly(listener)
        )
        probabilities = predict_images(backbone, setup.bundle.val, threads=recipe.data.workers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    labels = setup.bundle.val.labels
    right = probabilities[np.arange(len(labels)), labels]
    return Lap(
        entrant.name,
        share if _trains(entrant.plan) else 1.0,
        -np.log(np.maximum(right.astype(np.float64), 1e-12)),
        float((probabilities.argmax(axis=1) == labels).mean()),
        entrant.seconds,
    )
