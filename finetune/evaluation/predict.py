"""Probabilities or numbers for images, through the same evaluation path that the features are computed by."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune import ranks
from finetune.data.datasets import as_image
from finetune.data.decode import open_rgb
from finetune.data.imageset import ImageSet
from finetune.errors import DataError
from finetune.evaluation.ensembles import Members, mean_probabilities
from finetune.events import Listener
from finetune.features.extract import extract, extract_together
from finetune.zoo.backbone import Backbone

_CHUNK = 256  # loose images held in memory at once


def predict_images(
    backbone: Backbone | Members,
    images: ImageSet,
    *,
    cache: bool = False,
    threads: int | Literal["auto"] = "auto",
    listener: Listener | None = None,
) -> np.ndarray:
    """(N, K) float32 answers, computed on the device that the backbone is on; of several networks their weighted
    mean. By the network's task they are softmax probabilities, one sigmoid a label, or numbers.

    ``cache`` keeps the features on disk: right while the backbone is still the pretrained one, so that the
    same test images pass it once for all strategies and seeds; wasted on a finetuned one.
    """
    if isinstance(backbone, Members):
        parts = predict_members(backbone, images, cache=cache, threads=threads, listener=listener)
        return mean_probabilities(parts, backbone.weights)
    if len(images) == 0:
        return np.zeros((0, backbone.num_classes), np.float32)
    told = listener or Listener()
    device = next(backbone.parameters()).device
    found = extract(
        backbone,
        images,
        device=device,
        cache=cache,
        remember=cache,
        threads=threads,
        message=told.on_message,
        progress=lambda done, total: told.on_progress("testing", done, total),
    )
    return head_probabilities(backbone, np.concatenate([found.taps[i] for i in backbone.head_taps], axis=1))


def predict_together(
    backbone: Backbone | Members, images: ImageSet, *, cache: bool = False, **told: Any
) -> list[np.ndarray]:
    """(N, K) probabilities of the network, or of each of several, every process computing a share of the images.

    Arguments as for ``predict_images``; features to be kept are computed before, see ``extract_together``.
    """
    networks = backbone.networks if isinstance(backbone, Members) else (backbone,)
    share = images if cache or ranks.alone() else images.subset(range(*ranks.rows(len(images))))

    def work() -> list[np.ndarray]:
        return [predict_images(one, share, cache=cache, **told) for one in networks]

    if not cache:
        return [ranks.gather_rows(part) for part in ranks.each(work)]
    for one in networks:
        device = next(one.parameters()).device
        extract_together(one, images, device=device, threads=told.get("threads", "auto"))
    return ranks.on_main(work)


def predict_members(
    members: Members,
    images: ImageSet,
    *,
    cache: bool = False,
    threads: int | Literal["auto"] = "auto",
    listener: Listener | None = None,
) -> list[np.ndarray]:
    """(N, K) probabilities of each member by itself; arguments as for ``predict_images``."""
    return [
        predict_images(one, images, cache=cache, threads=threads, listener=listener)
        for one in members.networks
    ]


def head_probabilities(backbone: Backbone, features: np.ndarray) -> np.ndarray:
    """(N, D) features that the head reads -> (N, K) float32 probabilities, or numbers where the task is regression."""
    answers_of = _ANSWERS[backbone.task]
    with torch.inference_mode():
        if not isinstance(backbone.head, torch.nn.Linear):
            head = copy.deepcopy(backbone.head).float().cpu()
            answers: Tensor = head(torch.as_tensor(features, dtype=torch.float32))
            return answers_of(answers).numpy()
        weight, bias = backbone.head.weight.float().cpu(), backbone.head.bias.float().cpu()
        logits = torch.addmm(bias, torch.as_tensor(features, dtype=torch.float32), weight.T)
        return answers_of(logits).numpy()


_ANSWERS: dict[str, Callable[[Tensor], Tensor]] = {
    "single-label": lambda outputs: outputs.softmax(dim=1),
    "multi-label": lambda outputs: outputs.sigmoid(),
    "regression": lambda outputs: outputs,
}


@dataclass(frozen=True)
class Prediction:
    """The answer for one image, or why there is none."""

    image: str
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    """Of every class, most probable first."""
    labels: tuple[str, ...] | None = None
    """Where an image has any number of labels: those of probability above 1/2, most probable first."""
    value: float | None = None
    """Where the answer is a number."""
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Only the keys that apply."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items() if v is not None}


class LooseImages(ImageSet):
    """Decoded images without labels."""

    def __init__(self, images: Sequence[Image.Image], names: Sequence[str], classes: tuple[str, ...]) -> None:
        self.images, self.names, self.classes = images, names, classes
        self.labels = np.zeros(len(images), np.int64)

    def load(self, index: int) -> Image.Image:
        return self.images[index]

    def name(self, index: int) -> str:
        return self.names[index]

    def fingerprint(self, index: int) -> bytes:
        image = self.images[index]
        return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()


def predict_each(
    backbone: Backbone | Members,
    classes: tuple[str, ...],
    sources: Iterable[Any],
    *,
    threads: int | Literal["auto"] = "auto",
    depth: int | None = None,
) -> Iterator[Prediction]:
    """Predictions in order, a bad image among them as one with an ``error``.

    A source is a path, a PIL image, an array or a tensor, as in a dataset. ``depth``: as in training.
    """
    stream = enumerate(sources)
    while chunk := list(islice(stream, _CHUNK)):
        opened: list[tuple[str, Image.Image | None, str]] = []
        for index, source in chunk:
            name = str(source) if isinstance(source, (str, Path)) else f"image {index}"
            try:
                opened.append((name, _open(source, name, depth), ""))
            except DataError as error:
                opened.append((name, None, str(error)))
        good = [(name, image) for name, image, _ in opened if image is not None]
        loose = LooseImages([image for _, image in good], [name for name, _ in good], classes)
        answers = iter(predict_images(backbone, loose, threads=threads))
        task = (backbone.networks[0] if isinstance(backbone, Members) else backbone).task
        for name, image, problem in opened:
            if image is None:
                yield Prediction(name, error=problem)
            else:
                yield _answer(name, next(answers), classes, task)


def _open(source: Any, name: str, depth: int | None) -> Image.Image:
    if isinstance(source, (str, Path)):
        return open_rgb(source, depth=depth)
    return as_image(source, name, depth)[0]


def _answer(name: str, probabilities: np.ndarray, classes: tuple[str, ...], task: str) -> Prediction:
    if task == "regression":
        return Prediction(name, value=float(probabilities[0]))
    order = np.argsort(-probabilities, kind="stable")
    ranked = {classes[k]: float(probabilities[k]) for k in order}
    if task == "multi-label":
        return Prediction(name, probabilities=ranked, labels=tuple(c for c, p in ranked.items() if p > 0.5))
    return Prediction(name, classes[order[0]], float(probabilities[order[0]]), ranked)
