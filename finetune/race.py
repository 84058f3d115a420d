"""A race: near a border of the table the neighbours are trained for a share of the time, and compared.

Successive halving (Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943) with two changes. Every arm
runs a complete short schedule, never the beginning of a long one, since a truncated cosine flatters whatever
learns fast. And an arm leaves only if it is worse on the same validation images by more than one standard error of
the paired difference: on few images nobody is thrown out by luck, and what is left of a tie is the decision's
own choice, or else the cheapest. Log-loss is compared, each arm's at the temperature that suits it best: training
makes networks sure of themselves, and how sure they are must not decide which one is right more often.
"""

from __future__ import annotations

import contextlib
import copy
import math
import shutil
import time
from collections.abc import Callable, Sequence
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
    """(V,) log-loss of each validation image at the arm's best temperature, nats."""
    accuracy: float
    seconds: float
    """Estimated cost of the arm's full plan."""
    round: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"round": self.round, "arm": self.arm, "share": round(self.share, 3),
                "log_loss": float(self.losses.mean()), "accuracy": self.accuracy,
                "seconds_of_full_plan": round(self.seconds, 1)}  # fmt: skip


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
    entrants: Sequence[Entrant], setup: Setup, recipe: Recipe, folder: Path, budget: float, listener: Listener,
    clock: Callable[[], float] = time.monotonic,
) -> list[Lap]:  # fmt: skip
    """Two rounds at most; all laps, the decision's own arm first in each round.

    The second round, among those that the first left, gets the time that is left, at the pace of the first. Arms that
    fail (a network without what they train) drop out with a line, and so do those that the budget no longer reaches.
    Below ``folder`` each arm has a run folder of its own, removed again. Raises KeyboardInterrupt where a signal stops
    it.
    """
    running, laps, pace, began = list(entrants), list[Lap](), 1.0, clock()
    for number in (1, 2):
        left = budget - (clock() - began)
        share = share_for(running, (left / 2 if number == 1 else left) / pace)
        if share < SHORTEST or (number == 2 and share <= 1.5 * _share_of(laps)):
            break
        planned = 0.0
        for entrant in running:
            if planned and clock() - began > budget:
                listener.on_message(f"{entrant.name} does not run: the budget of {budget:.0f} s is used up.")
                continue
            listener.on_message(f"Race, round {number}: {entrant.name}, {share:.0%} of its epochs.")
            try:
                lap = _lap(entrant, share, setup, recipe, folder / f"{number}-{entrant.name}", listener)
                laps.append(replace(lap, round=number))
            except Interrupted:
                # The arm's folder is gone; the run's own one says how to go on.
                raise KeyboardInterrupt from None
            except FinetuneError as error:
                listener.on_message(f"{entrant.name} drops out: {error}")
            planned += entrant.seconds * share if _trains(entrant.plan) else 0.0
        pace = max(0.1, (clock() - began) / planned) if planned else 1.0
        names = {lap.arm for lap in survivors(last_round(laps))} if laps else set()
        running = [entrant for entrant in running if entrant.name in names]
        if len(running) < 2:
            break
    with contextlib.suppress(OSError):  # there is none, or something is left in it
        folder.rmdir()
    return laps


def last_round(laps: Sequence[Lap]) -> list[Lap]:
    """Those that are compared in the end."""
    return [lap for lap in laps if lap.round == max(each.round for each in laps)]


def _share_of(laps: Sequence[Lap]) -> float:
    """Of their epochs that arms trained; 1 where none trained."""
    return min((lap.share for lap in laps), default=1.0)


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
    last = last_round(laps)
    won, left = winner(last, decision.chosen), survivors(last)
    others = sorted((lap for lap in last if lap is not won), key=lambda lap: float(lap.losses.mean()))
    reason = ""
    if won.arm == decision.chosen:
        reason = ": the others are not better by more than the standard error"
    elif len(left) > 1:
        reason = f": level with {' and '.join(lap.arm for lap in left if lap is not won)}, and the cheapest of them"
    said = (
        f"Race on {len(won.losses)} validation images, {_share_of(last):.0%} of the epochs: log-loss "
        f"{_figures([won, *others])}. {won.arm} is taken{reason}."
    )
    before = [lap for lap in laps if lap.round < won.round and lap.arm not in {each.arm for each in last}]
    if before:
        said += f" After {_share_of(laps):.0%} of the epochs had left: {_figures(before)}."
    return replace(
        decision,
        chosen=won.arm,
        runner_up=others[0].arm if others else decision.runner_up,
        reasons=(*decision.reasons, said),
        race=tuple(lap.to_dict() for lap in laps),
    )


def _figures(laps: Sequence[Lap]) -> str:
    return ", ".join(f"{lap.arm} {lap.losses.mean():.3f} ({lap.accuracy:.1%})" for lap in laps)


def _trains(plan: Plan) -> bool:
    return any(isinstance(phase, GradientPhase) for phase in plan.phases)


def _lap(
    entrant: Entrant, share: float, setup: Setup, recipe: Recipe, folder: Path, listener: Listener
) -> Lap:
    from finetune.evaluation.predict import predict_images
    from finetune.features.temperature import fit_temperature
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
    _, losses = fit_temperature(np.log(np.maximum(probabilities.astype(np.float64), 1e-38)), labels)
    right = float((probabilities.argmax(axis=1) == labels).mean())
    return Lap(entrant.name, share if _trains(entrant.plan) else 1.0, losses, right, entrant.seconds)
