"""Where the evidence comes from: the training images once through the frozen backbone, then measured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from finetune.events import Listener
from finetune.features.extract import Features, extract
from finetune.features.source import SourceStatistics
from finetune.recipe import Recipe
from finetune.resources import weights_dir
from finetune.strategy.measure import Evidence, measure, sample_indices
from finetune.strategy.measure_values import measure_values

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle, ImageSet
    from finetune.zoo.backbone import Backbone


def gather(recipe: Recipe, bundle: DataBundle, backbone: Backbone, listener: Listener) -> Evidence:
    """Measure the training images (at most 5000) on the frozen backbone's cached features."""
    found = _measured(recipe, bundle, backbone, listener)
    return replace(found, scale=backbone.preprocessing.size / backbone.card.size)


def _measured(recipe: Recipe, bundle: DataBundle, backbone: Backbone, listener: Listener) -> Evidence:
    labels, task = bundle.train.labels, bundle.train.task
    images = bundle.train.subset(sample_indices(labels, seed=recipe.seed))
    found = frozen_features(recipe, images, backbone, listener, "looking at the images")
    source = _source_statistics(backbone) if recipe.pretrained else None
    if found.targets is not None:
        return measure_values(task, found.taps, found.targets, bundle.train.targets, labels, source)
    return measure(
        found.taps,
        found.labels,
        len(bundle.classes),
        n=len(labels),
        counts=np.bincount(labels, minlength=len(bundle.classes)).tolist(),
        source=source,
        seed=recipe.seed,
    )


def frozen_features(
    recipe: Recipe, images: ImageSet, backbone: Backbone, listener: Listener, doing: str
) -> Features:
    """The images once through the backbone as it is, cached as the recipe says; ``doing`` labels the progress."""
    return extract(
        backbone,
        images,
        device=next(backbone.parameters()).device,
        cache=recipe.probe.cache,
        threads=recipe.data.workers,
        message=listener.on_message,
        progress=lambda done, total: listener.on_progress(doing, done, total),
    )


def _source_statistics(backbone: Backbone) -> SourceStatistics | None:
    """What the backbone's own source looks like to it, where it was measured: beside the weights."""
    if backbone.norm_layers != "own":
        return None
    path = weights_dir() / f"{backbone.card.name}.stats.safetensors"
    return SourceStatistics.load(path) if backbone.card.source == "bundled" and path.is_file() else None
