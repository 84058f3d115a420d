"""Mean and standard deviation of a data set's pixels, channel by channel."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Literal

import numpy as np

from finetune.data.imageset import ImageSet
from finetune.data.preprocessing import Preprocessing, encode_mean_image
from finetune.data.reading import needed_side
from finetune.data.threads import for_each
from finetune.data.transforms import evaluate_pixels

MOST = 2000
"""Images that are looked at, evenly spaced: the error of a mean is then far below a level of 255."""
LEAST_STD = 1 / 255
"""Of a channel that is the same everywhere."""
Triple = tuple[float, float, float]


def normalised(
    images: ImageSet, prep: Preprocessing, how: Literal["data", "mean-image"], threads: int = 1
) -> Preprocessing:
    """``prep`` with the statistics of these images, as ``data.normalise`` names them."""
    if how == "mean-image":
        return with_mean_image(images, prep, threads)
    mean, std = channel_statistics(images, prep, threads)
    return replace(prep, mean=mean, std=std)


def channel_statistics(images: ImageSet, prep: Preprocessing, threads: int = 1) -> tuple[Triple, Triple]:
    """(mean, std) of red, green and blue in [0, 1] over the pixels that evaluation shows, to four decimals.

    Raises DataError where an image cannot be decoded.
    """
    chosen = _evenly(len(images))
    sums = np.zeros((len(chosen), 2, 3))

    def look(row: int) -> None:
        pixels = _pixels(images, int(chosen[row]), prep).reshape(-1, 3) / 255
        sums[row] = pixels.mean(axis=0), np.square(pixels).mean(axis=0)

    for_each(len(chosen), look, threads)
    mean, square = sums.mean(axis=0)
    return _triple(mean), _triple(_deviation(square - mean**2))


def with_mean_image(images: ImageSet, prep: Preprocessing, threads: int = 1) -> Preprocessing:
    """``prep`` with the mean of all images at each place, in 8 bits, and the std of each channel around it.

    Krizhevsky et al. 2012 (AlexNet). Raises DataError where an image cannot be decoded.
    """
    chosen, lock = _evenly(len(images)), threading.Lock()
    total, square = np.zeros((prep.size, prep.size, 3)), np.zeros((prep.size, prep.size, 3))

    def look(row: int) -> None:
        # Levels are whole numbers: their sums are exact, in whatever order the threads come.
        levels = _pixels(images, int(chosen[row]), prep).astype(np.float64)
        with lock:
            np.add(total, levels, out=total)
            np.add(square, np.square(levels), out=square)

    for_each(len(chosen), look, threads)
    mean = np.rint(total / len(chosen))
    around = square / len(chosen) - 2 * mean * total / len(chosen) + mean**2
    std = _deviation(around.mean(axis=(0, 1)) / 255**2)
    return replace(
        prep,
        mean=_triple(mean.mean(axis=(0, 1)) / 255),
        std=_triple(std),
        mean_image=encode_mean_image(mean.astype(np.uint8)),
    )


def _evenly(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, MOST)).round().astype(int))


def _pixels(images: ImageSet, index: int, prep: Preprocessing) -> np.ndarray:
    return evaluate_pixels(images.reduced(index, needed_side(prep)), prep)


def _deviation(variance: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.maximum(LEAST_STD, np.sqrt(np.maximum(0.0, variance)))
    return found


def _triple(values: np.ndarray) -> Triple:
    red, green, blue = (round(float(v), 4) for v in values)
    return red, green, blue
