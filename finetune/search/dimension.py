"""A dimension of the search space: one recipe key, the values it may take, and what a sampler asks of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

Value = float | int | str | bool | None
_MARGIN = 0.1
"""Of the whole range: what a narrowed range keeps on either side of the good values."""


@dataclass(frozen=True)
class Dimension:
    """One key and the values it may take. ``ratio`` is a factor on the trial's ``train.lr``, in log space."""

    key: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()

    def __str__(self) -> str:
        """The text that ``parse`` reads.

        >>> str(Dimension("train.lr", "log", 1e-4, 0.1))
        'log(0.0001, 0.1)'
        """
        values = self.choices if self.kind == "choice" else (self.low, self.high)
        return f"{self.kind}({', '.join('null' if v is None else str(v) for v in values)})"

    @property
    def log(self) -> bool:
        """Whether steps are factors."""
        return self.kind in ("log", "ratio")

    def suggest(self, trial: Any) -> Value:
        """The value that an Optuna trial takes."""
        found: Value
        if self.kind == "choice":
            found = trial.suggest_categorical(self.key, list(self.choices))
        elif self.kind == "int":
            found = trial.suggest_int(self.key, int(self.low), int(self.high))
        else:
            found = trial.suggest_float(self.key, self.low, self.high, log=self.log)
        return found

    def holds(self, value: Value) -> bool:
        """Whether the value is one that a trial can take."""
        if self.kind == "choice":
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        return (
            isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high
        )

    def narrowed(self, good: Sequence[Value]) -> Dimension:
        """Around values that did well: their range and a tenth of the whole one on either side, in log space
        where the dimension is; of choices those that occur.

        >>> str(Dimension("k", "log", 1e-4, 1.0).narrowed([1e-3, 1e-2]))
        'log(0.000398, 0.0251)'
        >>> str(Dimension("k", "choice", choices=("a", "b", "c")).narrowed(["c", "a", "c"]))
        'choice(a, c)'
        """
        if not good:
            return self
        if self.kind == "choice":
            return replace(self, choices=tuple(c for c in self.choices if c in good))
        to, back = (math.log, math.exp) if self.log else (float, float)
        numbers = [to(float(v)) for v in good if isinstance(v, (int, float))]
        margin = _MARGIN * (to(self.high) - to(self.low))
        low, high = back(min(numbers) - margin), back(max(numbers) + margin)
        if self.kind == "int":
            return replace(self, low=max(self.low, math.floor(low)), high=min(self.high, math.ceil(high)))
        return replace(self, low=max(self.low, short(low)), high=min(self.high, short(high)))

    def points(self, count: int) -> list[Value]:
        """At most ``count`` values spread over the range, ends included; all of the choices.

        >>> Dimension("k", "log", 1e-3, 1e-1).points(3)
        [0.001, 0.01, 0.1]
        >>> Dimension("k", "int", 1, 3).points(9)
        [1, 2, 3]
        """
        if self.kind == "choice":
            return list(self.choices)
        if self.kind == "int":
            count = min(count, int(self.high - self.low) + 1)
            step = (self.high - self.low) / max(1, count - 1)
            return [*sorted({round(self.low + i * step) for i in range(count)})]
        if count < 2 or self.high == self.low:
            return [self.low]
        to, back = (math.log, math.exp) if self.log else (float, float)
        step = (to(self.high) - to(self.low)) / (count - 1)
        inner: list[Value] = [short(back(to(self.low) + i * step)) for i in range(1, count - 1)]
        return [self.low, *inner, self.high]


def short(value: float) -> float:
    """Three digits: what a person would type."""
    return float(f"{value:.3g}")
