"""How many steps a phase takes: those that were planned, or as many as fit in its time.

A schedule is shortened, never cut off: from the step at which the number of steps changes, the run walks through
the rest of the planned schedule faster, so that the learning rate changes without a jump and still comes to its end.
Each choice is kept with the run's record, and a resumed run makes the same one at the same step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

_SETTLE = 2
"""The first steps of an attempt are not measured: caches are cold, kernels are chosen."""
_ENOUGH = 3
"""Measured steps before the first choice ..."""
_AGAIN = 20
"""... and a further look after each such part of what is left."""
_LATE, _EARLY = 1.05, 0.9
"""The number changes where the rest takes more than this share of the time left, or, at an epoch's end, less ..."""
_WORTH = 0.05
"""... and where as much of the whole phase is gained: else the last steps' jitter makes the number go to and fro."""
_TOLD = 0.5
"""A choice that differs from the last one told by more than this share is told too."""


class Pace:
    """Counts a phase's steps and its time.

    ``planned`` steps of ``per_epoch`` each; ``seconds`` is None where time does not matter. ``reserve`` counts the
    evaluations (of one epoch's end each) that follow the last step.
    """

    def __init__(
        self, planned: int, per_epoch: int, seconds: float | None, reserve: int = 1,
        clock: Callable[[], float] | None = None,
    ) -> None:  # fmt: skip
        clock = clock or time.perf_counter
        self.planned, self.per_epoch, self.seconds = planned, per_epoch, seconds
        self.cuts: list[list[int]] = []
        """[step, number of steps from then on], in the order in which they were chosen."""
        self.chosen: Callable[[], None] = lambda: None
        """Called after each choice."""
        self._reserve, self._clock = reserve, clock
        self._earlier, self._began, self._last = 0.0, clock(), clock()
        self._step_seconds: float | None = None
        self._epoch_seconds: float | None = None
        self._measured, self._next_look = -_SETTLE, 0

    def steps(self, step: int) -> int:
        """Steps of the whole phase, as it is known at ``step``."""
        return next((total for at, total in reversed(self.cuts) if at <= step), self.planned)

    def epochs(self, step: int) -> int:
        """Epochs of the whole phase; the last may be a part of one."""
        return math.ceil(self.steps(step) / self.per_epoch)

    def position(self, step: int) -> float:
        """The place in the planned schedule at which ``step`` is: ``step`` itself where nothing was shortened.

        >>> pace = Pace(planned=101, per_epoch=10, seconds=None)
        >>> pace.cuts = [[20, 61]]
        >>> [pace.position(step) for step in (10, 20, 40, 60)]
        [10.0, 20.0, 60.0, 100.0]
        """
        at, place, total = 0, 0.0, self.planned
        for start, steps in self.cuts:
            if start > step:
                break
            place, at, total = self._along(start, at, place, total), start, steps
        return self._along(step, at, place, total)

    def _along(self, step: int, at: int, place: float, total: int) -> float:
        last = self.planned - 1
        if total - 1 <= at:
            return float(last) if step > at else place
        return place + (step - at) * ((last - place) / (total - 1 - at))

    def after_step(self, step: int) -> None:
        """Measure; choose anew where the rest does not fit. ``step`` counts the finished ones."""
        if self.seconds is None:
            return
        now = self._clock()
        took, self._last = now - self._last, now
        self._measured += 1
        if self._measured > 0:
            weight = max(0.1, 1 / self._measured)
            self._step_seconds = took * weight + (self._step_seconds or 0.0) * (1 - weight)
        if self._elapsed() >= self.seconds:
            self._choose(step, step)
        elif self._measured >= _ENOUGH and step >= self._next_look:
            self._look(step, at_epoch_end=False)

    def after_epoch(self, step: int) -> None:
        """What lay between the last step and now (validation, saving) is measured too."""
        if self.seconds is None:
            return
        now = self._clock()
        took, self._last = now - self._last, now
        self._epoch_seconds = took
        if self._elapsed() >= self.seconds:
            self._choose(step, step)
        elif self._measured >= _ENOUGH:
            self._look(step, at_epoch_end=True)

    def _look(self, step: int, at_epoch_end: bool) -> None:
        """Whether the rest fits."""
        assert self.seconds is not None
        assert self._step_seconds is not None
        each = self._step_seconds
        # Before the first validation: a forward pass is a third of a step, and there are fewer images.
        epoch_end = each * self.per_epoch / 10 if self._epoch_seconds is None else self._epoch_seconds
        left = self.seconds - self._elapsed() - self._reserve * epoch_end
        fit = max(0, math.floor(left / (each + epoch_end / self.per_epoch)))
        rest = self.steps(step) - step
        self._next_look = step + max(1, min(fit, rest) // _AGAIN)
        late = rest > fit * _LATE or (not self.cuts and rest > fit)
        worth = at_epoch_end and fit - rest > _WORTH * self.steps(step)
        early = worth and 0 < rest < fit * _EARLY and self.steps(step) < self.planned
        if late or early:
            self._choose(step, min(self.planned, step + fit))

    def _choose(self, step: int, steps: int) -> None:
        # Choices ahead were made before a kill or a return to an earlier state; they hold unless time is up.
        ahead = sum(at > step for at, _ in self.cuts)
        if (ahead and steps > step) or steps >= self.steps(step) == self.planned or steps == self.steps(step):
            return
        del self.cuts[len(self.cuts) - ahead :]
        self.cuts.append([step, steps])
        self.chosen()

    def _elapsed(self) -> float:
        return self._earlier + self._clock() - self._began

    def resume_clock(self) -> None:
        """Steps begin or go on."""
        self._last = self._clock()

    def news(self, step: int, whole: float | None = None) -> str | None:
        """A sentence about the last choice: the first, and later ones that change the number by half; None for
        others. ``whole``: train.time, of which the phase's time may be a share. Known from the choices alone, so
        that a resumed run does not say it again."""
        assert self.seconds is not None
        told, earlier, new = self.planned, self.planned, False
        for number, (_, steps) in enumerate(self.cuts):
            new = number == 0 or abs(steps - told) > _TOLD * told
            told, earlier = (steps, told) if new else (told, earlier)
        if not new:
            return None
        steps, epochs = self.steps(step), self.steps(step) / self.per_epoch
        share = whole is not None and whole > 1.01 * self.seconds
        time = f"{_rounded(self.seconds)} s" + (
            f", this phase's share of train.time={whole:g}," if share else ""
        )
        if steps >= self.planned:
            return f"{time} are enough for all {self.planned:,} planned steps after all."
        done = "is lengthened" if steps > earlier else "is shortened"
        return (
            f"{time} are enough for about {steps:,} of {self.planned:,} planned steps ({epochs:.1f} epochs): the "
            f"schedule {done} to that."
        )

    def state_dict(self) -> dict[str, Any]:
        """The time so far; the choices are in the run's record."""
        return {"seconds": self._elapsed()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Time goes on from there; it does not go back with a run that is put back to an earlier state."""
        self._earlier, self._began = max(float(state["seconds"]), self._elapsed()), self._clock()


def _rounded(seconds: float) -> str:
    """
    >>> _rounded(13.5484), _rounded(0.25)
    ('14', '0.25')
    """
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"
