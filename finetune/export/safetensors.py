"""A folder that plain timm reads (``timm.create_model("local-dir:DIR", pretrained=True)``), or torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from finetune.errors import ExportError, ZooError
from finetune.export.base import Export
from finetune.files import atomic_write_bytes, atomic_write_json
from finetune.zoo.backbone import Backbone

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


class SafetensorsExport(Export):
    """model.safetensors under the source library's own names, and a config.json beside it."""

    def write(self, backbone: Backbone, classes: tuple[str, ...], out: Path) -> None:
        from safetensors.torch import save

        try:
            state = backbone.plain_state_dict()
        except ZooError as error:
            raise ExportError(_why_not(backbone)) from error
        # safetensors refuses tensors that share memory or are not contiguous.
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
        library = "torchvision" if backbone.card.source == "torchvision" else "timm"
        config = _torchvision_config(backbone) if library == "torchvision" else _timm_config(backbone)
        config["label_names"] = list(classes)
        config["pretrained_cfg"] = _preprocessing(backbone, len(classes))
        atomic_write_bytes(out / _WEIGHTS, save(tensors, metadata={"format": "pt"}))
        atomic_write_json(out / _CONFIG, config)

    def load(self, out: Path) -> torch.nn.Module:
        config = _config(out)
        if config.get("library") == "torchvision":
            import torchvision
            from safetensors.torch import load_file

            model: torch.nn.Module = torchvision.models.get_model(
                config["architecture"],
                weights=None,
                num_classes=config["num_classes"],
                **config["model_args"],
            )
            model.load_state_dict(load_file(out / _WEIGHTS))
            return model
        import timm

        loaded: torch.nn.Module = timm.create_model(f"local-dir:{out}", pretrained=True)
        return loaded

    def how(self, out: Path) -> str:
        config = _config(out)
        if config.get("library") == "torchvision":
            name, k = config["architecture"], config["num_classes"]
            return f'torchvision.models.get_model("{name}", num_classes={k}), then load_state_dict of {out / _WEIGHTS}'
        return f'timm.create_model("local-dir:{out}", pretrained=True)'


def _timm_config(backbone: Backbone) -> dict[str, Any]:
    arguments = {**backbone.card.args, **getattr(backbone.model, "_model_args", {})}
    dropped = ("num_classes", "pretrained", "checkpoint_path", "features_only")
    return {
        "architecture": backbone.card.arch,
        "num_classes": backbone.num_classes,
        "num_features": backbone.feature_width,
        "model_args": {k: v for k, v in arguments.items() if k not in dropped},
    }


def _torchvision_config(backbone: Backbone) -> dict[str, Any]:
    arguments = {k: v for k, v in backbone.card.args.items() if k not in ("num_classes", "weights")}
    return {
        "library": "torchvision",
        "architecture": backbone.card.arch,
        "num_classes": backbone.num_classes,
        "model_args": arguments,
    }


def _preprocessing(backbone: Backbone, num_classes: int) -> dict[str, Any]:
    """timm's pretrained_cfg: what ``timm.data.resolve_model_data_config`` reads."""
    prep = backbone.preprocessing
    size = [3, prep.size, prep.size]
    facts: dict[str, Any] = {
        "tag": "finetuned",
        "custom_load": False,
        "input_size": size,
        "test_input_size": size,
        "fixed_input_size": False,
        "interpolation": prep.interpolation,
        "crop_pct": prep.crop_pct,
        "crop_mode": prep.crop_mode,
        "mean": list(prep.mean),
        "std": list(prep.std),
        "num_classes": num_classes,
        "pool_size": None,
        "classifier": backbone.head_path,
    }
    first = getattr(backbone.model, "pretrained_cfg", {}).get("first_conv")
    return {**facts, **({"first_conv": first} if first else {})}


def _why_not(backbone: Backbone) -> str:
    if backbone.head_taps != (backbone.num_stages - 1,):
        stages = ", ".join(backbone.stage_names[i] for i in backbone.head_taps)
        return (
            f"A safetensors export needs a head on the last stage alone. Got one on stages {stages} instead, which "
            f"{backbone.card.source} has no place for. Use the run's model/ folder with finetune, or train with "
            "--strategy linear, partial or full."
        )
    return f"The head of {backbone.name} has no place in plain {backbone.card.source} weights. Use the run's model/ folder."


def _config(out: Path) -> dict[str, Any]:
    import json

    config: dict[str, Any] = json.loads((out / _CONFIG).read_text(encoding="utf-8"))
    return config
