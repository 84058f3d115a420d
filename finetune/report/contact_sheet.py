"""What an augmentation makes of a data set's own images, as one picture."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from finetune.augment import BATCHED
from finetune.augment.device import DeviceBatches
from finetune.data.batches import TrainBatches
from finetune.data.imageset import ImageSet
from finetune.data.preprocessing import Preprocessing
from finetune.data.transforms import evaluate_pixels

CELL = 112, 176
"""Sides of a small and a large cell, pixels: the network's input size in between."""
_GAP, _LINE, _INK, _PAPER = 4, 16, (40, 40, 40), (255, 255, 255)


def spread(images: ImageSet, count: int) -> list[int]:
    """At most ``count`` indices, of as many classes as there are: the first image of each, then the second ..."""
    order = np.argsort(images.labels, kind="stable")
    labels = images.labels[order]
    turn = np.arange(len(order)) - np.searchsorted(labels, labels)
    chosen = order[np.lexsort((labels, turn))][:count]
    return [int(i) for i in chosen[np.argsort(images.labels[chosen], kind="stable")]]


def contact_sheet(
    images: ImageSet, prep: Preprocessing, policy: str, *, rows: int = 6, samples: int = 4, seed: int = 0,
    avoid: Collection[str] = (),
) -> Image.Image:  # fmt: skip
    """A row an image: the original, what evaluation shows, ``samples`` from the loader, as many from the device.

    The samples are those of the first epochs of a training with this seed on these images. Raises ConfigError for an
    unknown policy, DataError for an image that cannot be decoded.
    """
    chosen = images.subset(spread(images, rows))
    forms = {"loader": TrainBatches(chosen, prep, policy, len(chosen), seed, avoid=avoid)}
    if policy in BATCHED:
        cpu = torch.device("cpu")
        forms["device"] = DeviceBatches(chosen, prep, policy, len(chosen), seed, avoid=avoid, device=cpu)
    columns: list[tuple[str, list[Image.Image]]] = [
        ("original", [chosen.load(i) for i in range(len(chosen))]),
        ("evaluation", [Image.fromarray(evaluate_pixels(chosen.load(i), prep)) for i in range(len(chosen))]),
    ]
    for form, batches in forms.items():
        for epoch in range(samples):
            columns.append((f"{form}, epoch {epoch + 1}", _epoch(batches, epoch)))
    left_out = f", without {', '.join(avoid)}" if avoid else ""
    kept = f", the device from squares of {forms['device'].augmentation.side} px" if "device" in forms else ""
    title = f"{policy}{left_out}: {prep.size} px{kept}"
    names = [
        f"{chosen.truth(i)}: {chosen.name(i).replace(chr(92), '/').rsplit('/', 1)[-1]}"
        for i in range(len(chosen))
    ]
    return _sheet(title, columns, names, min(max(prep.size, CELL[0]), CELL[1]))


def _epoch(batches: TrainBatches, epoch: int) -> list[Image.Image]:
    """The samples of an epoch of one batch, in the order of the images."""
    pixels, _ = next(iter(batches.epoch(epoch)))
    back = np.argsort(batches.order(epoch))
    return [Image.fromarray(pixels[int(i)].permute(1, 2, 0).numpy()) for i in back]


def _sheet(
    title: str, columns: list[tuple[str, list[Image.Image]]], names: list[str], cell: int
) -> Image.Image:
    head = 2 * _LINE + _GAP
    width = len(columns) * (cell + _GAP) + _GAP
    height = head + len(names) * (cell + _LINE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((_GAP, 1), title, _INK, font)
    for row, name in enumerate(names):
        top = head + row * (cell + _LINE + _GAP)
        draw.text((_GAP, top + cell + 1), name, _INK, font)
    for column, (caption, pictures) in enumerate(columns):
        left = _GAP + column * (cell + _GAP)
        draw.text((left, _LINE + 1), caption, _INK, font)
        for row, picture in enumerate(pictures):
            top = head + row * (cell + _LINE + _GAP)
            shown = _fitted(picture, cell)
            sheet.paste(shown, (left + (cell - shown.width) // 2, top + (cell - shown.height) // 2))
    return sheet


def _fitted(picture: Image.Image, cell: int) -> Image.Image:
    """The whole picture, as large as the cell allows."""
    scale = cell / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
