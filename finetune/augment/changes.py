"""Everything that happens to a batch, as numbers drawn on the host; then carried out on the device."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from finetune.augment.colour import ColourMaps
from finetune.augment.geometry import resample
from finetune.augment.pixelwise import POINTWISE, erase, noise


@dataclass
class Changes:
    """What happens to B images, in this order: one resampling, the steps, noise, erasing."""

    maps: np.ndarray
    """(B, 3, 3) from the output's coordinates to the source's."""
    bends: np.ndarray | None = None
    """(B, 2, g, g): a smooth warp, in the output's coordinates."""
    steps: list[tuple[np.ndarray, ColourMaps | tuple[str, np.ndarray]]] = field(default_factory=list)
    """Rows (b,) with a colour map of theirs, or with the name of a pointwise change and its amounts (b,)."""
    noise: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    """Rows (b,), deviations of 255 and places in the table of noise."""
    erased: tuple[np.ndarray, np.ndarray] | None = None
    """Rows (b,) and boxes (b, 4), shares of the side."""

    def colours(self, rows: np.ndarray | None = None) -> ColourMaps:
        """A new colour map for some rows, default all, to be filled in."""
        rows = np.arange(len(self.maps)) if rows is None else rows
        maps = ColourMaps(len(rows))
        if len(rows):
            self.steps.append((rows, maps))
        return maps

    def pointwise(self, name: str, rows: np.ndarray, amounts: np.ndarray) -> None:
        """A change of POINTWISE for some rows."""
        if len(rows):
            self.steps.append((rows, (name, amounts)))

    def apply(self, images: Tensor, side: int, fill: tuple[float, float, float]) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 3, S, S) float32 in [0, 255], on the images' device.

        ``fill``: the colour, in [0, 255], of what has no pixels.
        """
        x = resample(images, self.maps, side, fill, self.bends)
        for rows, step in self.steps:
            if isinstance(step, ColourMaps):
                x = _on_rows(x, rows, step.apply)
            else:
                name, amounts = step
                x = _on_rows(x, rows, lambda part, name=name, amounts=amounts: POINTWISE[name](part, amounts))
        if self.noise is not None:
            rows, deviations, places = self.noise
            x = _on_rows(x, rows, lambda part: noise(part, deviations, places))
        if self.erased is not None:
            rows, boxes = self.erased
            x = _on_rows(x, rows, lambda part: erase(part, boxes, fill))
        return x


def _on_rows(x: Tensor, rows: np.ndarray, work) -> Tensor:  # type: ignore[no-untyped-def]
    """The batch with some rows changed; the rows are known on the host, so a GPU is not waited for."""
    if len(rows) == 0:
        return x
    if len(rows) == len(x):
        changed: Tensor = work(x)
        return changed
    index = torch.from_numpy(rows).to(x.device)
    x[index] = work(x[index])
    return x
