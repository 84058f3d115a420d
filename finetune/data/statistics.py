"""Mean and standard deviation of a data set's pixels, channel by channel."""

from __future__ import annotations

import numpy as np

from finetune.data.imageset import ImageSet
from finetune.data.preprocessing import Preprocessing
from finetune.data.reading import needed_side
from finetune.data.threads import for_each
from finetune.data.transforms import evaluate_pixels

MOST = 2000
"""Images that are looked at, evenly spaced: the error of a mean is then far below a level of 255."""
LEAST_STD = 1 / 255
"""Of a channel that is the same everywhere."""
Triple = tuple[float, float, float]


def channel_statistics(images: ImageSet, prep: Preprocessing, threads: int = 1) -> tuple[Triple, Triple]:
    """(mean, std) of red, green and blue in [0, 1] over the pixels that evaluation shows, to four decimals.

    Raises DataError where an image cannot be decoded.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), MOST)).round().astype(int))
    sums = np.zeros((len(chosen), 2, 3))

    def look(row: int) -> None:
        pixels = (
            evaluate_pixels(images.reduced(int(chosen[row]), needed_side(prep)), prep).reshape(-1, 3) / 255
        )
        sums[row] = pixels.mean(axis=0), np.square(pixels).mean(axis=0)

    for_each(len(chosen), look, threads)
    mean, square = sums.mean(axis=0)
    std = np.maximum(LEAST_STD, np.sqrt(np.maximum(0.0, square - mean**2)))
    return _triple(mean), _triple(std)


def _triple(values: np.ndarray) -> Triple:
    red, green, blue = (round(float(v), 4) for v in values)
    return red, green, blue
