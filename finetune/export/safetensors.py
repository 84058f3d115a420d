"""A folder that plain timm (``timm.create_model("local-dir:DIR", pretrained=True)``) or torchvision reads.

Neither has a place for a head on several stages: that is read by a file of code beside the weights.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from finetune.errors import ExportError, must
from finetune.export import standalone
from finetune.export.base import Export
from finetune.files import atomic_write_bytes, atomic_write_json
from finetune.zoo.backbone import Backbone
from finetune.zoo.card import ModelCard
from finetune.zoo.heads import Bottleneck
from finetune.zoo.model_folder import save_backbone

_CODE = "model.py"


class SafetensorsExport(Export):
    """model.safetensors under the source library's own names, and a config.json beside it; for a head on several stages
    also model.py (standalone.py), which needs that library and no more."""

    def write(self, backbone: Backbone, classes: tuple[str, ...], out: Path) -> None:
        several = _reads_several(backbone)
        if not writable(backbone):
            raise ExportError(_why_not(backbone))
        save_backbone(backbone, out, classes=classes)
        if several:
            config = _config(out) | {"several_stages": _several_stages(backbone)}
            atomic_write_json(out / "config.json", config)
            atomic_write_bytes(out / _CODE, Path(standalone.__file__).read_bytes())

    def load(self, out: Path) -> torch.nn.Module:
        config = _config(out)
        model: torch.nn.Module
        if "several_stages" in config:
            model = _code_of(out).load()
            return model
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
        if "several_stages" in config:
            return f"from model import load; load(), with {out} on Python's path; or finetune"
        if _is_torchvision(config):
            name, k = config["architecture"], config["num_classes"]
            weights = out / "model.safetensors"
            return f'torchvision.models.get_model("{name}", num_classes={k}), then load {weights}'
        return f'timm.create_model("local-dir:{out}", pretrained=True)'


def writable(backbone: Backbone) -> bool:
    """Whether this format has a place for every part of the network."""
    return backbone.is_plain or _reads_several(backbone)


def _reads_several(backbone: Backbone) -> bool:
    """Whether the place of the head is all that the source library has not."""
    # What was taken out of a torchvision network that has no plain linear classifier is not known by name.
    known = backbone.head_path is not None or backbone.card.built_by == "timm"
    return backbone.is_usual and known and backbone.head_taps != (backbone.num_stages - 1,)


def _several_stages(backbone: Backbone) -> dict[str, Any]:
    """What model.py must know: how the network is built, and where its head reads."""
    card = backbone.card
    return {
        "library": card.built_by,
        "source_classes": card.source_classes,
        "classifier": backbone.head_path,
        "taps": [asdict(tap) if (tap := backbone.tap(i)) is not None else None for i in backbone.head_taps],
    }


def _code_of(out: Path) -> ModuleType:
    """The folder's model.py, which this format wrote."""
    spec = importlib.util.spec_from_file_location(f"finetune_export_{out.name}", out / _CODE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    return f"The head of {backbone.name} has no place in plain {source} weights. {remedy}."


def _config(out: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((out / "config.json").read_text(encoding="utf-8"))
    return config
