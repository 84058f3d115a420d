"""Features that are not numbers are found where they are made, and named: image, stage, remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from finetune.errors import StrategyError, must

_LIMIT = 1e18
"""Single precision squares nothing larger; no working network comes near it."""


def require_finite(
    taps: Sequence[np.ndarray], name: Callable[[int], str] | None = None, stages: Sequence[str] = ()
) -> None:
    """Raise StrategyError where a feature is NaN, infinite or as good as that.

    taps: (N, C_i) of each stage, input to head. The message names the first image concerned, by ``name`` where
    it is given, and the first stage in which it is not finite.
    """
    if all(np.abs(tap).max(initial=0.0) <= _LIMIT for tap in taps):  # NaN passes through max
        return
    bad = np.stack([~(np.abs(tap) <= _LIMIT).all(axis=1) for tap in taps], axis=1)  # (N, stages)
    images = np.flatnonzero(bad.any(axis=1))
    first = int(images[0])
    stage = int(bad[first].argmax())
    found = "NaN" if np.isnan(taps[stage][first]).any() else "infinity"
    image = repr(name(first)) if name is not None else f"image {first}"
    where = f" at stage {stages[stage] if stages else stage}" if stages or len(taps) > 1 else ""
    broken = "backbone's weights or its precision are broken: try another backbone."
    if len(images) == len(bad):
        remedy = f"The {broken}"
    else:
        remedy = f"Remove the image if it alone is concerned; otherwise the {broken}"
    count = f"(in {len(images)} of {len(bad)} images)"
    raise StrategyError(must("features", "finite", f"{found} for {image}{where} {count}", remedy))
