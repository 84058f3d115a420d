"""A Backbone as a folder: model.safetensors and config.json, which timm reads too where the head is a plain one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from finetune.errors import ZooError, must
from finetune.files import atomic_write_bytes, atomic_write_json
from finetune.task import TASKS
from finetune.zoo.backbone import Backbone
from finetune.zoo.card import ModelCard
from finetune.zoo.create import build, first_lines, fixed_input, timm_cfg
from finetune.zoo.heads import Bottleneck


def save_backbone(backbone: Backbone, folder: str | Path, *, classes: Sequence[str] | None = None) -> Path:
    """Write model.safetensors and config.json, atomically; ``load_backbone`` reads them back.

    Where the head has a counterpart in timm, plain ``timm.create_model("local-dir:FOLDER", pretrained=True)``
    reads them too. ``classes`` go into config.json as timm's ``label_names``. Raises RunError for a full or
    read-only disk.
    """
    from safetensors.torch import save

    folder = Path(folder)
    state = backbone.plain_state_dict() if backbone.is_plain else backbone.state_dict()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    atomic_write_bytes(folder / "model.safetensors", save(tensors, {"format": "pt"}))
    config = config_of(backbone)
    if classes is not None:
        config["label_names"] = list(classes)
    atomic_write_json(folder / "config.json", config)
    return folder


def config_of(backbone: Backbone) -> dict[str, Any]:
    """What config.json holds: timm's keys, and ours under ``finetune``."""
    card, prep = backbone.card, backbone.preprocessing
    pretrained_cfg = {
        "input_size": [3, prep.size, prep.size],
        "crop_pct": prep.crop_pct,
        "interpolation": prep.interpolation,
        "crop_mode": prep.crop_mode,
        "mean": list(prep.mean),
        "std": list(prep.std),
        "num_classes": backbone.num_classes,
        "license": card.licence,
        "fixed_input_size": fixed_input(backbone.model),
        "pool_size": None,
        "first_conv": timm_cfg(backbone.model).get("first_conv"),
        "classifier": backbone.head_path,
    }
    arguments = dict(card.args)
    if backbone.built_size is not None and card.built_by == "timm":
        arguments["img_size"] = backbone.built_size
    return {
        "architecture": card.arch,
        "num_classes": backbone.num_classes,
        "num_features": backbone.feature_width,
        "pretrained_cfg": pretrained_cfg,
        "model_args": arguments,
        "finetune": {
            "card": {
                **card.model_dump(mode="json"),
                "sha256": None,
                "mean": list(prep.mean),
                "std": list(prep.std),
            },
            "image_size": prep.size,
            "head_taps": list(backbone.head_taps),
            "plain": backbone.is_plain,
            "bottleneck": backbone.head.units if isinstance(backbone.head, Bottleneck) else None,
            "pooling": backbone.pooling,
            "norm_layers": backbone.norm_layers,
            **({} if prep.mean_image is None else {"mean_image": prep.mean_image}),
            "freeze_norms": card.freeze_norms,
            **({} if backbone.task == "single-label" else {"task": backbone.task}),
        },
    }


def load_backbone(folder: str | Path) -> Backbone:
    """A Backbone from a folder that ``save_backbone`` wrote, in eval mode. Raises ZooError."""
    from finetune.zoo.weights import read_weights

    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        ours = config["finetune"]
        card = ModelCard.model_validate(ours["card"])
        taps, size, plain = tuple(ours["head_taps"]), int(ours["image_size"]), bool(ours["plain"])
        classes, task = int(config["num_classes"]), TASKS[ours.get("task", "single-label")].name
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ZooError(
            must(
                f"model folder {str(folder)!r}", "one that finetune wrote", f"{type(error).__name__}: {error}"
            )
        ) from error
    state = read_weights(folder / "model.safetensors")
    if plain:
        final = card.model_copy(update={"source_classes": classes, "weights": None})
        backbone = build(final, state, size)
        backbone.card, backbone.name, backbone.task = card, card.name, task
        return backbone.eval()
    with torch.random.fork_rng(devices=[]):
        backbone = build(card, None, size)
    backbone.task = task
    if ours.get("mean_image"):
        backbone.with_statistics(replace(backbone.preprocessing, mean_image=ours["mean_image"]))
    if ours.get("norm_layers") == "group":
        backbone.use_group_norms()
    if ours.get("pooling") == "fractional":
        backbone.pool_fractionally()
    if ours.get("bottleneck"):
        backbone.set_bottleneck(int(ours["bottleneck"]), classes)
    else:
        width = sum(backbone.widths[i] for i in taps)
        backbone.set_head(torch.zeros(classes, width), torch.zeros(classes), taps)
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        raise ZooError(f"The weights in {folder} do not fit {card.arch}: {first_lines(error)}") from error
    return backbone.eval()
