"""Cards made on the spot, from what timm, torchvision, the hub or a weight file says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import ZooError, must
from finetune.zoo.card import ModelCard
from finetune.zoo.zoo import make_card, read_mapping

# Recipes differ from weights to weights; these stand in where no card knows better.
_SGD = {"source_lr": 0.1, "source_optimizer": "sgd", "source_batch": 256}
_ADAMW = {"source_lr": 1e-3, "source_optimizer": "adamw", "source_batch": 1024}
_ADAMW_FAMILIES = (
    "vit", "deit", "swin", "beit", "eva", "convnext", "xcit", "cait", "mixer", "coat", "maxvit", "levit", "pvt", "twins",
    "poolformer", "metaformer", "caformer", "convformer", "mambaout", "fastvit", "mobilevit", "nextvit", "hiera", "davit",
    "focalnet", "edgenext", "inception_next", "samvit", "aimv2", "efficientformer", "mobilenetv4", "test_vit",
)  # fmt: skip


def timm_names() -> list[str]:
    """Architectures of timm and the names of their weights."""
    import timm

    return [*timm.list_models(), *timm.list_pretrained()]


def torchvision_names() -> list[str]:
    """Image classifiers of torchvision."""
    import torchvision.models

    return [n for n in torchvision.models.list_models(module=torchvision.models) if not n.startswith("quantized_")]


def timm_card(name: str, label: str) -> ModelCard | None:
    """From timm's pretrained configuration of ``ARCH`` or ``ARCH.TAG``; None for a name that timm has not."""
    import timm

    arch, _, tag = name.partition(".")
    if not timm.is_model(arch) or (tag and f"{arch}.{tag}" not in timm.list_pretrained(f"{arch}.*")):
        return None
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    found = {} if config is None else config.to_dict()
    chosen = tag or str(found.get("tag") or "")
    return make_card(
        {"name": label, "source": "timm", "arch": arch, "weights": chosen or None, "source_dataset": _data_of(chosen),
         **config_fields(found), **optimizer_of(arch)}, "timm",
    )  # fmt: skip


def config_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Card fields out of timm's ``pretrained_cfg``."""
    fields: dict[str, Any] = {"source_classes": config.get("num_classes", 1000)}
    if config.get("input_size"):
        fields["size"] = config["input_size"][-1]
    for theirs, ours in (("crop_pct", "crop_pct"), ("mean", "mean"), ("std", "std"), ("license", "licence"),
                         ("crop_mode", "crop_mode"), ("paper_name", "summary")):  # fmt: skip
        if config.get(theirs):
            fields[ours] = config[theirs]
    if config.get("interpolation"):
        fields["interpolation"] = {"random": "bilinear"}.get(config["interpolation"], config["interpolation"])
    if config.get("paper_ids"):
        first = config["paper_ids"][0] if isinstance(config["paper_ids"], (list, tuple)) else config["paper_ids"]
        fields["paper"] = str(first).replace("arXiv:", "https://arxiv.org/abs/")
    return fields


def optimizer_of(arch: str) -> dict[str, Any]:
    """Which family of optimizer, and about which peak LR, an architecture is usually pretrained with."""
    return dict(_ADAMW if arch.startswith(_ADAMW_FAMILIES) else _SGD)


def torchvision_card(name: str, label: str) -> ModelCard | None:
    """From the metadata of torchvision's default weights; None for a name that it has not."""
    import math

    from torchvision.models import get_model_weights

    if name not in torchvision_names():
        return None
    weights = getattr(get_model_weights(name), "DEFAULT", None)
    inception = name in ("googlenet", "inception_v3")  # weights for inputs scaled by .5; auxiliary heads unused
    fields: dict[str, Any] = {"name": label, "source": "torchvision", "arch": name, "source_classes": 1000,
                              "args": {"aux_logits": False, "transform_input": True} if inception else {},
                              **optimizer_of(name)}  # fmt: skip
    if weights is not None:
        preset, meta = weights.transforms(), weights.meta
        size = preset.crop_size[0]
        accuracy = next(iter(meta["_metrics"].values()), {}).get("acc@1")
        fields.update(
            weights=weights.name, size=size, crop_pct=size / preset.resize_size[0], mean=tuple(preset.mean),
            std=tuple(preset.std), interpolation=preset.interpolation.value, source_classes=len(meta["categories"]),
            accuracy=accuracy if accuracy is not None and not math.isnan(accuracy) else None, accuracy_at=size,
            parameters=meta["num_params"] / 1e6, macs=meta["_ops"], licence="BSD-3-Clause",
            source_dataset="imagenet-1k" if meta["num_params"] else "unknown",
        )  # fmt: skip
    return make_card(fields, "torchvision")


def hub_card(name: str) -> ModelCard:
    """From config.json of a timm-style repository on the Hugging Face hub. Raises ZooError."""
    from finetune.zoo.weights import from_hub, parse_hub_name

    repository, revision = parse_hub_name(name)
    config = _json(from_hub(repository, revision, ["config.json"]))
    if "architecture" not in config:
        raise ZooError(must(f"config.json of {repository}", 'a timm configuration with "architecture"', "none"))
    return make_card({**_timm_config(config), "name": name, "source": "hub", "weights": name.partition(":")[2]}, name)


def file_card(path: Path, name: str, zoo: Mapping[str, ModelCard]) -> ModelCard:
    """The card of a weight file or a model folder. Raises ZooError that says what to write where none is found.

    Looked for in this order: a card in a zoo file whose weights are this file; a YAML card beside it
    (``FILE.yaml``); config.json of its folder; the header of the safetensors file (``architecture`` and any
    field of a card).
    """
    if path.is_dir():
        return _folder_card(path, name)
    if not path.is_file():
        raise ZooError(must("backbone", "a name of the zoo, timm or torchvision, or an existing weight file", repr(name)))
    path = path.resolve()
    for known in zoo.values():
        if known.source == "local" and known.weights and Path(known.weights).expanduser().resolve() == path:
            return known
    local = {"name": name, "source": "local", "weights": str(path)}
    for beside in (path.with_suffix(".yaml"), path.with_suffix(".yml")):
        if beside.is_file():
            return make_card({**read_mapping(beside), **local}, beside.name)
    if (path.parent / "config.json").is_file():
        return _folder_card(path.parent, name).model_copy(update=local)
    fields = _header(path)
    if "arch" not in fields:
        raise ZooError(_what_to_write(path))
    return make_card({**optimizer_of(fields["arch"]), **fields, **local}, path.name)


def _header(path: Path) -> dict[str, Any]:
    """Card fields out of a safetensors header, whose values are all text."""
    from finetune.zoo.weights import metadata

    fields: dict[str, Any] = {}
    for key, text in metadata(path).items():
        field = {"architecture": "arch", "num_classes": "source_classes", "license": "licence"}.get(key, key)
        if field in ModelCard.model_fields and field not in ("name", "source", "weights", "sha256"):
            fields[field] = text if field in ("arch", "licence") else _parsed(text)
    return fields


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _folder_card(folder: Path, name: str) -> ModelCard:
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ZooError(must(f"backbone folder {str(folder)!r}", "one with config.json and model.safetensors", "none"))
    config = _json(config_file)
    ours = config.get("finetune")
    fields = _timm_config(config)
    if isinstance(ours, dict) and isinstance(ours.get("card"), dict):
        known = ours["card"]
        library = "torchvision" if known.get("source") == "torchvision" else known.get("library", "timm")
        classes = config.get("num_classes", 0) if ours.get("plain") else 0
        fields = {**known, "source_classes": classes, "size": ours.get("image_size", known.get("size")),
                  "library": library, "accuracy": None, "accuracy_at": None}  # fmt: skip
    weights = folder / "model.safetensors"
    return make_card(
        {**fields, "name": name, "source": "local", "weights": str(weights.resolve()), "sha256": None}, str(config_file)
    )


def _timm_config(config: Mapping[str, Any]) -> dict[str, Any]:
    arch = str(config.get("architecture", ""))
    pretrained = {**config, **config.get("pretrained_cfg", {})}
    fields = config_fields(pretrained)
    if "num_classes" in config:
        fields["source_classes"] = config["num_classes"]
    return {"arch": arch, "args": dict(config.get("model_args") or {}), **fields, **optimizer_of(arch)}


def _json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ZooError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(tree, dict):
        raise ZooError(must(str(path), "a JSON object", type(tree).__name__))
    return tree


def _what_to_write(path: Path) -> str:
    arch = guess_arch(path.stem) or "ARCHITECTURE"
    beside = path.with_suffix(".yaml")
    return (
        f"{path.name} does not say which architecture its weights belong to, nor how its pictures were prepared. "
        f"Write a card beside it, in {beside}, for example:\n"
        f"  arch: {arch}\n  source_classes: 1000\n  size: 224\n  crop_pct: 0.875\n  interpolation: bicubic\n"
        "  mean: [0.485, 0.456, 0.406]\n  std: [0.229, 0.224, 0.225]\n"
        "or put the same under a name of your choice, with source: local and weights: FILE, into zoo.yaml here "
        "or a file named by FINETUNE_ZOO."
    )


def guess_arch(stem: str) -> str | None:
    """The longest timm architecture that a file's name begins with: a suggestion, never used unasked."""
    import timm

    names = [name for name in timm.list_models() if stem == name or stem.startswith((f"{name}_", f"{name}.", f"{name}-"))]
    return max(names, key=len, default=None)


def _data_of(tag: str) -> str:
    """Source data set by timm's tag (``augreg_in21k_ft_in1k``)."""
    known = {"in21k": "imagenet-21k", "in22k": "imagenet-22k", "in12k": "imagenet-12k", "laion2b": "laion-2b",
             "openai": "wit-400m", "webli": "webli", "lvd142m": "lvd-142m", "lvd1689m": "lvd-1689m",
             "in1k": "imagenet-1k"}  # fmt: skip
    parts = [full for key, full in known.items() if key in tag.split("_")]
    return " + ".join(parts) or "unknown"
