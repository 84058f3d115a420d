"""Truths of images that have a number each, and which of the numbers are probably wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from finetune.audit.truths import Judgement, Truths
from finetune.audit.views import first_of_each, for_all, standardised
from finetune.features.outputs import number_losses, standardisation
from finetune.features.ridge import fit_ridge_values

SPREADS = 4.0
"""Robust standard deviations (1.4826 times the median deviation) that a number is from what the other images say of it,
beyond which it is reported."""

ROUNDING = 0.01
"""Numbers of copies may differ by this share of the numbers' robust standard deviation: one was rounded."""

_ROUNDS = 4
_FEWEST = 8
_BARS = 10


def said_of_numbers(
    taps: Sequence[np.ndarray], numbers: np.ndarray, copies: Sequence[Sequence[int]] = ()
) -> np.ndarray | None:
    """(N,) numbers by what the *other* images say; None with fewer than eight, or where they are all the same.

    numbers: (N,) float; taps, copies: as in ``finetune.audit.labels.held_out``. Ridge regression on all stages,
    leave-one-out in closed form. It is solved again without the numbers that it contradicts, up to three times: a
    squared error lets one misplaced decimal point bend what is said of all others.
    """
    kept = first_of_each(len(numbers), copies)
    known = numbers[kept].astype(np.float64)
    x = standardised(taps, kept) if len(kept) >= _FEWEST else None
    if x is None:
        return None
    said, used = None, np.ones(len(known), dtype=bool)
    for _ in range(_ROUNDS):
        if used.sum() < _FEWEST or len(np.unique(known[used])) < 2:
            break
        mean, spread = standardisation(known[used, None])
        fit = fit_ridge_values(x[used], torch.from_numpy((known[used, None] - mean) / spread))
        said = (x @ fit.weight[0] + fit.bias[0]) * spread[0] + mean[0]
        said[used] = fit.loo[:, 0] * spread[0] + mean[0]
        believed = np.abs(deviations(said, known)[0]) <= SPREADS
        if (believed == used).all():
            break
        used = believed
    return None if said is None else for_all(said, kept, len(numbers), copies)


def deviations(said: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, float]:
    """(N,) what is said minus what was given, less the median, in robust standard deviations; and how much one is.

    It is no less than what passes for rounding, or else numbers that the images tell perfectly would all be suspected.
    """
    off = said - numbers.astype(np.float64)
    off -= np.median(off)
    spread = max(1.4826 * float(np.median(np.abs(off))), rounding(numbers))
    return off / spread, spread


def rounding(numbers: np.ndarray) -> float:
    """How far two numbers may be from each other that are the same: ``ROUNDING``, or what float32 cannot hold."""
    values = numbers.astype(np.float64)
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return max(ROUNDING * spread, 1e-6 * float(np.abs(values).max()), 1e-30)


def suspected_numbers(said: np.ndarray, numbers: np.ndarray) -> list[tuple[int, float, float]]:
    """(image, what is said of it, robust standard deviations) beyond ``SPREADS``, the furthest first.

    said, numbers: (N,). What is said is rounded to a tenth of a standard deviation, or finer.
    """
    off, spread = deviations(said, numbers)
    places = max(0, math.ceil(-math.log10(spread / 10)))
    order = np.argsort(-np.abs(off), kind="stable")
    return [
        (int(i), round(float(said[i]), places), float(abs(off[i]))) for i in order if abs(off[i]) > SPREADS
    ]


class Numbers(Truths[float]):
    """A number each."""

    noun = "number"
    torn = "copies with different numbers"
    contradiction = "The same picture with different numbers"
    contradiction_means = "At least one of the numbers is wrong, or they are that uncertain."
    doubts = "Numbers to look at"
    doubts_mean = (f"More than {SPREADS:g} robust standard deviations from what the other images say. The furthest "
                   "first; rare numbers are among them, for the others know little of them.")  # fmt: skip
    alike = "with a like number"

    @property
    def values(self) -> np.ndarray:
        """(N,) float32."""
        assert self.images.values is not None
        return self.images.values[:, 0]

    def given(self, index: int) -> float:
        return float(self.shown(self.values[index]))

    def plain(self, answer: float) -> Any:
        return float(answer)

    def shown(self, answer: float) -> str:
        """All digits that tell the number from its neighbours, and no more."""
        return np.format_float_positional(answer, trim="-")

    def scored(self, score: float) -> str:
        return f"{score:.1f} deviations"

    def contradict(self, group: Sequence[int]) -> bool:
        own = self.values[list(group)].astype(np.float64)
        return float(own.max() - own.min()) > rounding(self.values)

    def judge(self, taps: Sequence[np.ndarray], copies: Sequence[Sequence[int]]) -> Judgement[float]:
        """The figure is R2 over the images whose numbers are not suspected."""
        said = said_of_numbers(taps, self.values, copies)
        if said is None:
            return Judgement()
        found = suspected_numbers(said, self.values)
        believed = np.setdiff1d(np.arange(len(said)), [i for i, _, _ in found])
        losses = number_losses(said[believed, None], self.values[believed, None].astype(np.float64))
        return Judgement(tuple(found), 1 - float(losses.mean()) if len(losses) else None)

    def facts(self) -> dict[str, Any]:
        least, middle, most = self._spread()
        return {"task": self.task.name, "numbers": {
            "name": self.images.classes[0], "min": least, "median": middle, "max": most,
            "different": len(np.unique(self.values)),
        }}  # fmt: skip

    def _spread(self) -> tuple[float, float, float]:
        least, middle, most = (float(self.shown(f(self.values))) for f in (np.min, np.median, np.max))
        return least, middle, most

    def bars(self) -> list[tuple[str, int]]:
        counts, edges = np.histogram(self.values.astype(np.float64), bins=_BARS)
        return [(f"{a:.4g} to {b:.4g}", int(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False)]

    def headline(self) -> str:
        return f"{len(self):,} images with a number ({self.images.classes[0]})"

    def span(self) -> str:
        least, middle, most = map(self.shown, self._spread())
        return f"From {least} to {most}, median {middle}."

    def told(self, figure: float) -> str:
        explained = 100 * max(0.0, figure)
        return (
            f"What the other images say of an image explains {explained:.0f}% of the numbers' variance (R2)."
        )

    def names(self) -> tuple[str, ...]:
        return ()
