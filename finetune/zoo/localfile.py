"""Cards of weight files and model folders on this disk, from what lies beside or inside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import ZooError, must
from finetune.zoo.card import ModelCard
from finetune.zoo.libraries import import_timm
from finetune.zoo.sources import optimizer_of, read_json, timm_config
from finetune.zoo.zoo import make_card, read_mapping


def file_card(path: Path, name: str, zoo: Mapping[str, ModelCard]) -> ModelCard:
    """The card of a weight file or model folder. Raises ZooError that says what to write where there is none.

    Looked for in this order: a card in a zoo file whose weights are this file; a YAML card beside it
    (``FILE.yaml``); config.json of its folder; the header of the safetensors file (``architecture`` and any
    field of a card).
    """
    if path.is_dir():
        return _folder_card(path, name)
    if not path.is_file():
        raise ZooError(
            must("backbone", "a name of the zoo, timm or torchvision, or an existing weight file", repr(name))
        )
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
        raise ZooError(
            must(f"backbone folder {str(folder)!r}", "one with config.json and model.safetensors", "none")
        )
    config = read_json(config_file)
    ours = config.get("finetune")
    fields = timm_config(config)
    if isinstance(ours, dict) and isinstance(ours.get("card"), dict):
        known = ours["card"]
        if ours.get("norm_layers") == "group":
            raise ZooError(
                must(f"backbone folder {str(folder)!r}", "a network as its library builds it", "one with group norms",
                     "It can predict, and be resumed, but no other run can start from it.")
            )  # fmt: skip
        library = "torchvision" if known.get("source") == "torchvision" else known.get("library", "timm")
        classes = config.get("num_classes", 0) if ours.get("plain") else 0
        fields = {
            **known,
            "source_classes": classes,
            "size": ours.get("image_size", known.get("size")),
            "library": library,
            "accuracy": None,
            "accuracy_at": None,
        }
    weights = folder / "model.safetensors"
    return make_card(
        {**fields, "name": name, "source": "local", "weights": str(weights.resolve()), "sha256": None},
        str(config_file),
    )


def _what_to_write(path: Path) -> str:
    arch = guess_arch(path.stem) or "ARCHITECTURE"
    beside = path.with_suffix(".yaml")
    return (
        f"{path.name} does not say which architecture its weights belong to, nor how its pictures "
        f"were prepared. "
        f"Write a card beside it, in {beside}, for example:\n"
        f"  arch: {arch}\n  source_classes: 1000\n  size: 224\n  crop_pct: 0.875\n  interpolation: bicubic\n"
        "  mean: [0.485, 0.456, 0.406]\n  std: [0.229, 0.224, 0.225]\n"
        "or put the same under a name of your choice, with source: local and weights: FILE, into zoo.yaml "
        "here or a file named by FINETUNE_ZOO."
    )


def guess_arch(stem: str) -> str | None:
    """The longest timm architecture that a file's name begins with: a suggestion, never used unasked."""
    timm = import_timm()

    names = [
        name
        for name in timm.list_models()
        if stem == name or stem.startswith((f"{name}_", f"{name}.", f"{name}-"))
    ]
    return max(names, key=len, default=None)
