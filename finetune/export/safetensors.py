"""A folder that plain timm (``timm.create_model("local-dir:DIR", pretrained=True)``) or torchvision reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from finetune.errors import ExportError, must
from finetune.export.base import Export
from finetune.zoo.backbone import Backbone
from finetune.zoo.card import ModelCard
from finetune.zoo.create import save_backbone
from finetune.zoo.heads import Bottleneck


class SafetensorsExport(Export):
    """model.safetensors under the source library's own names, and a config.json beside it."""

    def write(self, backbone: Backbone, classes: tuple[str, ...], out: Path) -> None:
        if not backbone.is_plain:
            raise ExportError(_why_not(backbone))
        save_backbone(backbone, out, classes=classes)

    def load(self, out: Path) -> torch.nn.Module:
        config = _config(out)
        model: torch.nn.Module
        if not _is_torchvision(config):
            import timm

            model = timm.create_model(f"local-dir:{out}", pretrained=True)
            return model
        import torchvision
        from safetensors.torch import load_file

        arguments = {**config["model_args"], "num_classes": config["num_classes"]}
        model = torchvision.models.get_model(config["architecture"], weights=None, **arguments)
        model.load_state_dict(load_file(out / "model.safetensors"))
        return model

    def how(self, out: Path) -> str:
        config = _config(out)
        if _is_torchvision(config):
            name, k = config["architecture"], config["num_classes"]
            weights = out / "model.safetensors"
            return f'torchvision.models.get_model("{name}", num_classes={k}), then load {weights}'
        return f'timm.create_model("local-dir:{out}", pretrained=True)'


def _is_torchvision(config: dict[str, Any]) -> bool:
    return ModelCard.model_validate(config["finetune"]["card"]).built_by == "torchvision"


def _why_not(backbone: Backbone) -> str:
    source = "torchvision" if backbone.card.source == "torchvision" else "timm"
    remedy = "Use the run's model/ folder with finetune"
    if isinstance(backbone.head, Bottleneck) or backbone.pooling != "global":
        got = "fractional-pool" if backbone.pooling != "global" else "bottleneck"
        return must(
            "The head of a safetensors export", f"one linear layer, as {source} has", f"train.head={got}",
            f"{remedy}, or train with train.head=linear.",
        )  # fmt: skip
    if backbone.norm_layers != "own":
        return must("The norms of a safetensors export", f"those that {source} builds", "norm_layers=group",
                    f"{remedy}, or train with norm_layers=own.")  # fmt: skip
    if backbone.preprocessing.mean_image is not None:
        return must("The normalisation of a safetensors export", "a mean and a std of each channel, as timm has",
                    "data.normalise=mean-image", f"{remedy}, or train with data.normalise=data.")  # fmt: skip
    if backbone.head_taps == (backbone.num_stages - 1,):
        return f"The head of {backbone.name} has no place in plain {source} weights. {remedy}."
    stages = ", ".join(backbone.stage_names[i] for i in backbone.head_taps)
    return must(
        "The head of a safetensors export",
        f"on the last stage alone, where {source} has one",
        f"a head on stages {stages}",
        f"{remedy}, or train with probe.stages=last and another strategy than multistage.",
    )


def _config(out: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((out / "config.json").read_text(encoding="utf-8"))
    return config
