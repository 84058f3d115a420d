"""``train.time`` of a run: the moment by which everything is done, shared among what is still to come.

The time counts from the start of the command. What comes after training (test, files, figures) is set aside; what
is left is divided among the gradient phases by what their epochs are estimated to take, anew before each of them, so
that whatever took longer than expected shortens the schedules and not the deadline. Where schedules would become too
short the second training on train+val goes first, then all training: the head alone is a valid model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from finetune.strategy.cost import Cost
from finetune.strategy.plan import GradientPhase, Phase, Plan

REFIT = 0.25
"""A refit is dropped where both trainings would get less than this share of their epochs: one training of twice the
length is worth more than the validation images."""
LATE_REFIT = 0.5
"""A refit that was planned is dropped where it would get less than this share of the first training's time."""
_FIGURES, _FILES = 4.5, 2.5
"""Seconds for the end: loading the drawing library, drawing, giving the memory back; and without figures ..."""
_OF_START, _LONGEST = 1.5, 20.0
"""... but at least this multiple of what the start took, up to so many seconds: both load libraries, and a machine that
is slow or busy is so at both ends."""
_OVER = 2.0
"""Training took half of its cost estimate, or less, where it was held against it (a CPU, small batches in fp32 beside
whole ones in bf16): only what certainly does not fit is dropped before the pace is known."""
_TEST = 1.3
"""The estimate of the test is multiplied by this."""
_SHARE = 0.02
"""... and this share of the whole time is set aside too, for what nobody foresees."""
_SETUP = 3.0
"""Seconds between a head and the first step: number formats are compared, the preflight looks."""
_LEAST = 1e-3


@dataclass(frozen=True)
class Needs:
    """What a run's parts are estimated to take, seconds."""

    epochs: tuple[float, ...]
    """An epoch of each phase of the plan; 0 for heads."""
    heads: tuple[float, ...]
    """Each head; 0 for phases that train by steps."""
    ending: float
    """Test, files, figures."""

    @classmethod
    def of(cls, plan: Plan, cost: Cost, figures: bool, start: float) -> Needs:
        """From the cost estimate; ``start``: seconds of the command up to its first line of work."""
        heads = [
            s if phase.kind == "probe" else 0.0 for phase, s in zip(plan.phases, cost.phases, strict=True)
        ]
        files = max(_FIGURES if figures else _FILES, min(_OF_START * start, _LONGEST))
        return cls(tuple(each / _OVER for each in cost.epochs), tuple(heads), _TEST * cost.test + files)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for training.json."""
        return {"epochs": list(self.epochs), "heads": list(self.heads), "ending": self.ending}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Needs:
        """What to_dict gave."""
        return cls(tuple(tree["epochs"]), tuple(tree["heads"]), float(tree["ending"]))


class Deadline:
    """How much of ``seconds`` is left. ``began``: reading of the clock when the command began; ``earlier``: seconds
    that attempts before this one took."""

    def __init__(
        self, seconds: float, began: float, earlier: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds, self.earlier = seconds, earlier
        self._began, self._clock = began, clock
        self.start = clock() - began
        """Seconds up to here."""
        self.needs: Needs | None = None
        """None until the plan is known."""

    def spent(self) -> float:
        """Seconds of all attempts so far."""
        return self.earlier + self._clock() - self._began

    def go_on(self, spent: float) -> None:
        """An attempt that was killed left a state that it reached after so many seconds."""
        self.earlier = max(self.earlier, spent)

    def left(self) -> float:
        """Seconds for phases: what follows the last one is taken off."""
        ending = self.needs.ending if self.needs is not None else 0.0
        return self.seconds - self.spent() - ending - _SHARE * self.seconds

    # --- how much of the plan fits ----------------------------------------------------------------------

    def fitting(self, plan: Plan, done: int = 0) -> int:
        """How many of the plan's phases there is time for, ``done`` of which are over."""
        phases, needs = plan.phases, self._known(plan)
        refit = _refit_of(phases)
        tuned = next((i for i, phase in enumerate(phases) if phase.kind == "gradient"), None)
        if tuned is None or done > tuned:
            return len(phases)
        if refit is not None:
            heads, whole = sum(needs.heads[done:]), _whole(phases, needs, done, len(phases))
            if self.left() - heads - _SETUP >= REFIT * whole:
                return len(phases)
        before = len(phases) if refit is None else refit
        if tuned == 0 or self.left() - sum(needs.heads[done:before]) - _SETUP >= needs.epochs[tuned]:
            return before
        return tuned

    def fits_again(self, plan: Plan, index: int, first: float, head: float) -> bool:
        """Whether there is time for the refit that begins with phase ``index``; the first training took ``first``
        seconds and the head before it ``head``."""
        return index != _refit_of(plan.phases) or self.left() - head >= LATE_REFIT * first

    # --- how much a phase gets --------------------------------------------------------------------------

    def grant(
        self, plan: Plan, index: int, before: float | None = None, elapsed: float = 0.0, head: float = 0.0
    ) -> float:
        """Seconds for the gradient phase ``index``: its part of what is left. A resumed phase was given ``before``
        seconds by an earlier attempt and has had ``elapsed`` of them: it gets no more than it had. ``head``: seconds
        that the slowest head took so far."""
        needs = self._known(plan)
        mine = _whole(plan.phases, needs, index, index + 1)
        later = _whole(plan.phases, needs, index + 1, len(plan.phases))
        rest = mine if not before else mine * max(0.0, 1 - elapsed / before)
        heads = zip(plan.phases[index + 1 :], needs.heads[index + 1 :], strict=False)
        room = self.left() - sum(max(each, head) for phase, each in heads if phase.kind == "probe")
        share = room * rest / (rest + later) if rest + later > 0 else 0.0
        granted = elapsed + max(share, _LEAST)
        return granted if before is None else min(granted, max(before, elapsed + _LEAST))

    def _known(self, plan: Plan) -> Needs:
        """The estimates; without any an epoch counts as a second."""
        if self.needs is not None and len(self.needs.epochs) >= len(plan.phases):
            return self.needs
        epochs = tuple(float(phase.kind == "gradient") for phase in plan.phases)
        return Needs(epochs, (0.0,) * len(epochs), _FILES)


def fitted(
    plan: Plan, cost: Cost, deadline: Deadline, figures: bool, fit_on: Literal["train", "train+val"]
) -> tuple[Plan, Cost, str | None]:
    """What of the plan fits, its cost, and a word on what does not; the deadline is told what the plan needs.
    ``fit_on``: images of a head that is all that is left."""
    deadline.needs = Needs.of(plan, cost, figures, deadline.start)
    kept = deadline.fitting(plan)
    if kept == len(plan.phases):
        return plan, cost, None
    said, phases = dropped_line(plan, kept, deadline.seconds), plan.phases[:kept]
    if all(phase.kind == "probe" for phase in phases):  # nothing is left to validate
        phases = tuple(phase.model_copy(update={"fit_on": fit_on}) for phase in phases)
    plan = plan.model_copy(update={"phases": phases})
    cost = replace(cost, phases=cost.phases[:kept], epochs=cost.epochs[:kept])
    deadline.needs = Needs.of(plan, cost, figures, deadline.start)
    return plan, cost, said


def dropped_line(plan: Plan, kept: int, seconds: float) -> str:
    """What is said where only ``kept`` phases of the plan are carried out.

    >>> from finetune.strategy.plan import ProbePhase
    >>> tune = GradientPhase(train_from=0, epochs=9, lr=0.1, head_lr=0.1)
    >>> again = tune.model_copy(update={"fit_on": "train+val"})
    >>> plan = Plan(strategy="x", phases=(ProbePhase(candidates=((1,),)), tune, again))
    >>> dropped_line(plan, 2, 30.0)
    'train.time=30: no time to train on train+val once more; the first training has it all.'
    >>> dropped_line(plan, 1, 30.0)
    'train.time=30 is too short even for one epoch of training: the head alone is kept.'
    """
    if any(phase.kind == "gradient" for phase in plan.phases[:kept]):
        return (
            f"train.time={seconds:g}: no time to train on train+val once more; the first training has it all."
        )
    return f"train.time={seconds:g} is too short even for one epoch of training: the head alone is kept."


def late_line(plan: Plan, deadline: Deadline) -> str | None:
    """What is said at the end of a run that took longer than its time; None of any other."""
    spent = deadline.spent()
    if spent <= deadline.seconds:
        return None
    fixed = all(phase.kind == "probe" for phase in plan.phases)
    why = (
        "reading and looking at the images, the head and the test alone take that long."
        if fixed
        else "the machine became slower, or the end took more than was set aside."
    )
    return f"The run took {spent:.0f} s instead of train.time={deadline.seconds:g}: {why}"


def _refit_of(phases: Sequence[Phase]) -> int | None:
    """Where the second training, on train+val, begins; None where there is none."""
    trained = False
    for index, phase in enumerate(phases):
        if trained and phase.fit_on == "train+val":
            return index
        trained = trained or phase.kind == "gradient"
    return None


def _whole(phases: Sequence[Phase], needs: Needs, start: int, end: int) -> float:
    """Seconds of whole schedules."""
    return sum(
        phase.epochs * each
        for phase, each in zip(phases[start:end], needs.epochs[start:end], strict=True)
        if isinstance(phase, GradientPhase)
    )
