"""What a finished pretraining run leaves: weights, card and source statistics, ready for the zoo."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from finetune.events import Listener
from finetune.features.source import SourceStatistics
from finetune.files import atomic_path, atomic_write_json, atomic_write_text, disk_error
from finetune.pretraining.images import StoredImages, evaluation_batches, order, store
from finetune.pretraining.recipe import PretrainRecipe
from finetune.pretraining.train import Pretraining
from finetune.runtime import choose_device, choose_threads, configure_threads

STATISTICS_IMAGES = 10_000


def pretrain(recipe: PretrainRecipe, listener: Listener | None = None) -> dict[str, Any]:
    """Train, or go on where a killed run was, then write NAME.safetensors, NAME.stats.safetensors and zoo.yaml.

    Returns the content of result.json. Raises DataError, ConfigError, TrainingError or RunError.
    """
    listener = listener or Listener()
    out = Path(recipe.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, out) from error
    configure_threads(choose_threads(recipe.threads))
    listener.on_message(f"Decoding {recipe.data} to {recipe.store_size} px, once ...")
    train = store(Path(recipe.data) / "train", out / "cache", recipe.store_size)
    val = store(Path(recipe.data) / "val", out / "cache", recipe.store_size, train.classes)
    run = Pretraining(recipe, train, val, choose_device(recipe.device), listener)
    if run.restore():
        listener.on_message(f"Going on at step {run.step:,} of {run.steps:,}.")
    run.fit()
    with run.average.applied():
        return finish(run, listener)


def finish(run: Pretraining, listener: Listener) -> dict[str, Any]:
    """Fit the test size, then write weights, card and statistics of the weights in the model."""
    recipe, out = run.recipe, Path(run.recipe.out)
    accuracies = {size: run.accuracy(size) for size in recipe.test_sizes}
    size = max(accuracies, key=lambda s: (accuracies[s], -s))
    listener.on_message("Top-1 on val: " + ", ".join(f"{a:.1%} at {s} px" for s, a in accuracies.items()))
    weights = out / f"{recipe.name}.safetensors"
    digest = save_weights(run, weights)
    statistics = measure_statistics(run, size)
    statistics.save(out / f"{recipe.name}.stats.safetensors")
    parameters = sum(p.numel() for p in run.model.parameters())
    card = {
        "source": "local",
        "arch": recipe.arch,
        "args": dict(recipe.args),
        "weights": str(weights.resolve()),
        "sha256": digest,
        "licence": recipe.licence,
        "source_dataset": recipe.source_dataset or recipe.data,
        "source_classes": len(run.train_set.classes),
        "accuracy": round(100 * accuracies[size], 2),
        "accuracy_at": size,
        "parameters": round(parameters / 1e6, 2),
        "source_lr": recipe.source_lr or recipe.lr,
        "source_optimizer": "sgd" if recipe.optimizer == "muon" else recipe.optimizer,
        "source_batch": recipe.batch_size,
        "size": size,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": list(recipe.mean),
        "std": list(recipe.std),
        "summary": f"{run.steps / run.steps_per_epoch:.3g} epochs by finetune in {run.seconds / 3600:.1f} h",
    }
    # A user zoo file: `finetune run --backbone NAME` finds the card beside it.
    atomic_write_text(out / "zoo.yaml", yaml.safe_dump({recipe.name: card}, sort_keys=False))
    result = {
        "name": recipe.name,
        "steps": run.steps,
        "epochs": run.steps / run.steps_per_epoch,
        "seconds": run.seconds,
        "accuracy": {str(s): a for s, a in accuracies.items()},
        "size": size,
        "val_images": len(run.val_set),
    }
    atomic_write_json(out / "result.json", result)
    return result


def save_weights(run: Pretraining, path: Path) -> str:
    """The weights as fp16 safetensors with the class names in the metadata; returns the sha256."""
    import hashlib
    import json

    from safetensors.torch import save

    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in run.model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    data = save(
        tensors, {"arch": run.recipe.arch, "classes": json.dumps(run.train_set.classes), "format": "pt"}
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def measure_statistics(run: Pretraining, size: int) -> SourceStatistics:
    """Statistics of the pooled stage features on training images, quantiles on val."""
    from finetune.zoo.card import ModelCard
    from finetune.zoo.create import wrap

    card = ModelCard(
        name=run.recipe.name,
        source="local",
        arch=run.recipe.arch,
        args=dict(run.recipe.args),
        size=size,
        crop_pct=1.0,
        mean=run.recipe.mean,
        std=run.recipe.std,
    )
    # wrap() takes the classifier out of the model that it is given.
    backbone = wrap(copy.deepcopy(run.model).eval(), card)
    some = order(len(run.train_set), 0, run.recipe.seed)[:STATISTICS_IMAGES].sort().values
    train = StoredImages(
        run.train_set.images[some.numpy()], run.train_set.labels[some], run.train_set.classes
    )
    return SourceStatistics.measure(
        _taps(run, backbone, train, size), _taps(run, backbone, run.val_set, size)
    )


@torch.inference_mode()
def _taps(run: Pretraining, backbone: Any, data: StoredImages, size: int) -> list[np.ndarray]:
    batches = [
        [tap.float().cpu().numpy() for tap in backbone.taps(run.normalise(images.to(run.device)))]
        for images, _ in evaluation_batches(data, size)
    ]
    return [np.concatenate(stage) for stage in zip(*batches, strict=True)]
