"""Names and cards to Backbones; Backbones to folders and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ZooError, must
from finetune.files import atomic_write_bytes, atomic_write_json
from finetune.task import TASKS, TaskName
from finetune.zoo.backbone import Backbone
from finetune.zoo.card import ModelCard
from finetune.zoo.heads import Bottleneck
from finetune.zoo.libraries import import_timm, import_torchvision_models

_PROBE_SIZE = 64
"""Side of the picture that networks of any input size are traced with, pixels."""


def create_backbone(
    name: str | ModelCard,
    *,
    pretrained: bool = True,
    num_classes: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    task: TaskName = "single-label",
) -> Backbone:
    """A Backbone by zoo, timm, torchvision or hub name, weight file or card.

    ``num_classes`` None keeps the head that came with the weights. ``image_size`` overrides the card's; nets
    of fixed input (ViT, Swin) are built for it and their position tables resampled. ``seed`` draws random
    weights and the new head; the global random state is left as it was. ``task`` says what the head's outputs will
    be. Raises ZooError.
    """
    from finetune.zoo.zoo import card

    chosen = name if isinstance(name, ModelCard) else card(name)
    state = None
    if pretrained:
        from finetune.zoo.weights import find_weights, read_weights

        state = _without_own_head(read_weights(find_weights(chosen)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build(chosen, state, image_size)
        if num_classes is not None:
            backbone.reset_head(num_classes, seed)
    backbone.task = task
    return backbone


def build(card: ModelCard, state: dict[str, Tensor] | None, image_size: int | None = None) -> Backbone:
    """A Backbone with the given weights (None: random, from the global random state). Raises ZooError."""
    make = _torchvision_model if card.built_by == "torchvision" else _timm_model
    try:
        model = make(card, state, image_size)
    except (RuntimeError, KeyError, ValueError) as error:
        if state is None:
            raise ZooError(f"{card.arch} cannot be built: {_first_lines(error)}") from error
        raise ZooError(
            f"The weights of {card.name} do not fit {card.arch}({_arguments(card)}): {_first_lines(error)}"
        ) from error
    except (TypeError, AssertionError) as error:
        raise ZooError(f"{card.arch}({_arguments(card)}) cannot be built: {_first_lines(error)}") from error
    return wrap(model, card, image_size)


def wrap(model: nn.Module, card: ModelCard, image_size: int | None = None) -> Backbone:
    """A timm or torchvision classifier as a Backbone; its last layer is taken out and becomes the head."""
    path, classifier = _classifier(model)
    head, shape = None, None
    if path is not None:
        parent, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(parent), attribute, nn.Identity())
        if classifier is not None:
            head, shape = _as_linear(classifier), classifier.weight.shape
    size = image_size or card.size
    error: Exception | None = None
    for probe in (size,) if _fixed_input(model) else (min(_PROBE_SIZE, size), size):
        try:
            return Backbone(
                model,
                card,
                head=head,
                head_path=path,
                head_shape=shape,
                image_size=image_size,
                probe_size=probe,
                built_size=size if _fixed_input(model) else None,
            )
        except (
            RuntimeError,
            AssertionError,
            ValueError,
        ) as problem:  # too small, or not a multiple of something
            error = problem
    assert error is not None
    raise ZooError(f"{card.arch} cannot take pictures of {size} px: {_first_lines(error)}") from error


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
        "fixed_input_size": _fixed_input(backbone.model),
        "pool_size": None,
        "first_conv": _timm_cfg(backbone.model).get("first_conv"),
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
        raise ZooError(f"The weights in {folder} do not fit {card.arch}: {_first_lines(error)}") from error
    return backbone.eval()


def _without_own_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The body alone of a folder whose head reads several stages (and so has no plain names)."""
    if not all(name.startswith(("model.", "head.")) for name in state):
        return state
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}


def _timm_model(card: ModelCard, state: dict[str, Tensor] | None, image_size: int | None) -> nn.Module:
    timm = import_timm()

    arguments: dict[str, Any] = dict(card.args)
    name = f"{card.arch}.{card.weights}" if card.source == "timm" and card.weights else card.arch
    if not timm.is_model(card.arch):
        raise ZooError(must(f"arch of {card.name}", "an architecture of timm", repr(card.arch)))
    if card.source_classes:
        arguments["num_classes"] = card.source_classes
    size = image_size or arguments.get("img_size") or card.size
    config = timm.get_pretrained_cfg(card.arch)
    if config is not None and config.fixed_input_size and size != config.input_size[-1]:
        arguments["img_size"] = size
    overlay: dict[str, Any] = {}
    if state is not None:
        overlay = {"state_dict": state, "num_classes": card.source_classes, "custom_load": False}
        if card.source != "timm":
            overlay["label_offset"] = 0
    model: nn.Module = timm.create_model(
        name, pretrained=state is not None, pretrained_cfg_overlay=overlay or None, **arguments
    )
    if overlay:  # timm keeps the overlay, and with it a second copy of all weights
        model.pretrained_cfg = {k: v for k, v in _timm_cfg(model).items() if k != "state_dict"}  # type: ignore[assignment]
        model.default_cfg = model.pretrained_cfg
    return model


def _torchvision_model(card: ModelCard, state: dict[str, Tensor] | None, _: int | None) -> nn.Module:
    models = import_torchvision_models()

    arguments: dict[str, Any] = dict(card.args)
    if card.source_classes:
        arguments["num_classes"] = card.source_classes
    if card.arch.startswith(("googlenet", "inception_v3", "vgg")):
        arguments["init_weights"] = state is None  # seconds that loaded weights would only overwrite
    model: nn.Module = models.get_model(card.arch, weights=None, **arguments)
    if state is not None:
        model.load_state_dict(
            {k: v for k, v in state.items() if not k.startswith(("aux1.", "aux2.", "AuxLogits."))}
        )
    return model


def _classifier(model: nn.Module) -> tuple[str | None, Any]:
    """(name, module) of the last layer; (name, None) for an empty place of one; (None, None) otherwise."""
    if hasattr(model, "get_classifier"):
        found: Any = model.get_classifier()  # type: ignore[operator]
        if isinstance(found, nn.Linear) or (isinstance(found, nn.Conv2d) and found.kernel_size == (1, 1)):
            if found.bias is not None:
                return next(name for name, module in model.named_modules() if module is found), found
        elif isinstance(found, nn.Identity):
            place = _timm_cfg(model).get("classifier")
            return (place, None) if isinstance(place, str) else (None, None)
        model.reset_classifier(0)  # type: ignore[operator]
        return None, None
    name, last = [(name, module) for name, module in model.named_modules() if _is_matrix(module)][-1]
    if isinstance(last, nn.Linear) and last.bias is not None:
        return name, last
    parent, _, attribute = name.rpartition(".")  # SqueezeNet's convolution, MaxViT's layer without a bias
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return None, None


def _is_matrix(module: nn.Module) -> bool:
    return (
        isinstance(module, (nn.Linear, nn.Conv2d))
        and type(module).__name__ != "NonDynamicallyQuantizableLinear"
    )


def _as_linear(classifier: Any) -> nn.Linear:
    if isinstance(classifier, nn.Linear):
        return classifier
    linear = nn.Linear(classifier.in_channels, classifier.out_channels)
    with torch.no_grad():
        linear.weight.copy_(classifier.weight.flatten(1))
        linear.bias.copy_(classifier.bias)
    return linear


def _timm_cfg(model: nn.Module) -> dict[str, Any]:
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    return dict(config if isinstance(config, dict) else config.to_dict())


def _fixed_input(model: nn.Module) -> bool:
    if type(model).__module__.startswith("torchvision."):
        return type(model).__name__ in ("VisionTransformer", "MaxVit")
    return bool(_timm_cfg(model).get("fixed_input_size"))


def _arguments(card: ModelCard) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in card.args.items())


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300]
