"""How far a step moves the weights, relative to their size: what tells a learning rate that is far too low from a
network that is too small, whose losses look alike."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from statistics import median

import torch
from torch import Tensor, nn

MOST = 16
"""Weight tensors that are looked at, spread evenly over the network: enough for a median, and a copy of them is small
beside what the step itself needs."""


class Movement:
    """|w' - w| / |w| of single steps, in Euclidean norms: the median over weight tensors.

    About 1e-3 is usual (https://cs231n.github.io/neural-networks-3/, "ratio of weights:updates"). Tensors of one
    dimension, biases and the scales of norms, count only where nothing else is trained. Of weights that are shared out
    over processes each looks at its own part.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        known = list(parameters)
        chosen = [p for p in known if p.ndim > 1] or known
        self._weights = (
            [chosen[i * len(chosen) // MOST] for i in range(MOST)] if len(chosen) > MOST else chosen
        )
        self._ratios: list[Tensor] = []

    @contextlib.contextmanager
    def measured(self, wanted: bool) -> Iterator[None]:
        """The step inside, where it is ``wanted``; any other costs nothing."""
        before = [_own(p).clone() for p in self._weights] if wanted else []
        yield
        if wanted:
            # They stay on the device until read: a step never waits for them.
            self._ratios = [
                (_own(p) - b).norm() / b.norm() for p, b in zip(self._weights, before, strict=True)
            ]

    def read(self) -> float | None:
        """Of the step that was measured since the last call; None where none was, or all weights were zero."""
        ratios, self._ratios = self._ratios, []
        finite = [r for r in torch.stack(ratios).tolist() if math.isfinite(r)] if ratios else []
        return median(finite) if finite else None


def _own(parameter: nn.Parameter) -> Tensor:
    """The weights, or this process's part of them."""
    values = parameter.detach()
    local: Tensor = values.to_local() if hasattr(values, "to_local") else values
    return local
