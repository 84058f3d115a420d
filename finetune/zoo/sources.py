"""Cards made on the spot, from what timm, torchvision or the hub says about a name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import ZooError, must
from finetune.zoo.card import ModelCard
from finetune.zoo.libraries import import_timm, import_torchvision_models
from finetune.zoo.zoo import make_card

# Recipes differ from weights to weights; these stand in where no card knows better.
_SGD = {"source_lr": 0.1, "source_optimizer": "sgd", "source_batch": 256}
_ADAMW = {"source_lr": 1e-3, "source_optimizer": "adamw", "source_batch": 1024}
_ADAMW_FAMILIES = (
    "vit",
    "deit",
    "swin",
    "beit",
    "eva",
    "convnext",
    "xcit",
    "cait",
    "mixer",
    "coat",
    "maxvit",
    "levit",
    "pvt",
    "twins",
    "poolformer",
    "metaformer",
    "caformer",
    "convformer",
    "mambaout",
    "fastvit",
    "mobilevit",
    "nextvit",
    "hiera",
    "davit",
    "focalnet",
    "edgenext",
    "inception_next",
    "samvit",
    "aimv2",
    "efficientformer",
    "mobilenetv4",
    "test_vit",
)


def timm_names() -> list[str]:
    """Architectures of timm and the names of their weights."""
    timm = import_timm()

    return [*timm.list_models(), *timm.list_pretrained()]


def torchvision_names() -> list[str]:
    """Image classifiers of torchvision."""
    models = import_torchvision_models()

    return [n for n in models.list_models(module=models) if not n.startswith("quantized_")]


def timm_card(name: str, label: str) -> ModelCard | None:
    """From timm's pretrained configuration of ``ARCH`` or ``ARCH.TAG``; None for a name that timm has not."""
    timm = import_timm()

    arch, _, tag = name.partition(".")
    if not timm.is_model(arch) or (tag and f"{arch}.{tag}" not in timm.list_pretrained(f"{arch}.*")):
        return None
    config: Any = timm.get_pretrained_cfg(name, allow_unregistered=True)
    found: dict[str, Any] = {} if config is None else config.to_dict()
    chosen = tag or str(found.get("tag") or "")
    return make_card(
        {
            "name": label,
            "source": "timm",
            "arch": arch,
            "weights": chosen or None,
            "source_dataset": _data_of(chosen),
            **config_fields(found),
            **optimizer_of(arch),
        },
        "timm",
    )


def config_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Card fields out of timm's ``pretrained_cfg``."""
    fields: dict[str, Any] = {"source_classes": config.get("num_classes", 1000)}
    if config.get("input_size"):
        fields["size"] = config["input_size"][-1]
    for theirs, ours in (
        ("crop_pct", "crop_pct"),
        ("mean", "mean"),
        ("std", "std"),
        ("license", "licence"),
        ("crop_mode", "crop_mode"),
        ("paper_name", "summary"),
    ):
        if config.get(theirs):
            fields[ours] = config[theirs]
    if config.get("interpolation"):
        fields["interpolation"] = {"random": "bilinear"}.get(config["interpolation"], config["interpolation"])
    if config.get("paper_ids"):
        first = (
            config["paper_ids"][0] if isinstance(config["paper_ids"], (list, tuple)) else config["paper_ids"]
        )
        fields["paper"] = str(first).replace("arXiv:", "https://arxiv.org/abs/")
    return fields


def optimizer_of(arch: str) -> dict[str, Any]:
    """Which family of optimizer, and about which peak LR, an architecture is usually pretrained with."""
    return dict(_ADAMW if arch.startswith(_ADAMW_FAMILIES) else _SGD)


def torchvision_card(name: str, label: str) -> ModelCard | None:
    """From the metadata of torchvision's default weights; None for a name that it has not."""
    import math

    models = import_torchvision_models()

    if name not in torchvision_names():
        return None
    weights = getattr(models.get_model_weights(name), "DEFAULT", None)
    inception = name in (
        "googlenet",
        "inception_v3",
    )  # weights for inputs scaled by .5; auxiliary heads unused
    fields: dict[str, Any] = {
        "name": label,
        "source": "torchvision",
        "arch": name,
        "source_classes": 1000,
        "args": {"aux_logits": False, "transform_input": True} if inception else {},
        **optimizer_of(name),
    }
    if weights is not None:
        preset, meta = weights.transforms(), weights.meta
        size = preset.crop_size[0]
        measured: list[dict[str, float]] = list(meta["_metrics"].values())
        accuracy = measured[0].get("acc@1") if measured else None
        fields.update(
            weights=weights.name,
            size=size,
            crop_pct=size / preset.resize_size[0],
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            interpolation=preset.interpolation.value,
            source_classes=len(meta["categories"]),
            accuracy=accuracy if accuracy is not None and not math.isnan(accuracy) else None,
            accuracy_at=size,
            parameters=meta["num_params"] / 1e6,
            macs=meta["_ops"],
            licence="BSD-3-Clause",
            source_dataset="imagenet-1k" if meta["num_params"] else "unknown",
        )
    return make_card(fields, "torchvision")


def hub_card(name: str) -> ModelCard:
    """From config.json of a timm-style repository on the Hugging Face hub. Raises ZooError."""
    from finetune.zoo.weights import from_hub, parse_hub_name

    repository, revision = parse_hub_name(name)
    config = read_json(from_hub(repository, revision, ["config.json"]))
    if "architecture" not in config:
        raise ZooError(
            must(f"config.json of {repository}", 'a timm configuration with "architecture"', "none")
        )
    return make_card(
        {**timm_config(config), "name": name, "source": "hub", "weights": name.partition(":")[2]}, name
    )


def timm_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Card fields out of timm's config.json."""
    arch = str(config.get("architecture", ""))
    pretrained = {**config, **config.get("pretrained_cfg", {})}
    fields = config_fields(pretrained)
    if "num_classes" in config:
        fields["source_classes"] = config["num_classes"]
    return {"arch": arch, "args": dict(config.get("model_args") or {}), **fields, **optimizer_of(arch)}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object. Raises ZooError."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ZooError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(tree, dict):
        raise ZooError(must(str(path), "a JSON object", type(tree).__name__))
    return tree


def _data_of(tag: str) -> str:
    """Source data set by timm's tag (``augreg_in21k_ft_in1k``)."""
    known = {
        "in21k": "imagenet-21k",
        "in22k": "imagenet-22k",
        "in12k": "imagenet-12k",
        "laion2b": "laion-2b",
        "openai": "wit-400m",
        "webli": "webli",
        "lvd142m": "lvd-142m",
        "lvd1689m": "lvd-1689m",
        "in1k": "imagenet-1k",
    }
    parts = [full for key, full in known.items() if key in tag.split("_")]
    return " + ".join(parts) or "unknown"
