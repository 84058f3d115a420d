"""Names and cards to Backbones: a classifier of timm or torchvision is built, and its last layer becomes the head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ZooError, must
from finetune.task import TaskName
from finetune.zoo.backbone import Backbone
from finetune.zoo.card import ModelCard
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
            raise ZooError(f"{card.arch} cannot be built: {first_lines(error)}") from error
        raise ZooError(
            f"The weights of {card.name} do not fit {card.arch}({_arguments(card)}): {first_lines(error)}"
        ) from error
    except (TypeError, AssertionError) as error:
        raise ZooError(f"{card.arch}({_arguments(card)}) cannot be built: {first_lines(error)}") from error
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
    for probe in (size,) if fixed_input(model) else (min(_PROBE_SIZE, size), size):
        try:
            return Backbone(
                model,
                card,
                head=head,
                head_path=path,
                head_shape=shape,
                image_size=image_size,
                probe_size=probe,
                built_size=size if fixed_input(model) else None,
            )
        except (
            RuntimeError,
            AssertionError,
            ValueError,
        ) as problem:  # too small, or not a multiple of something
            error = problem
    assert error is not None
    raise ZooError(f"{card.arch} cannot take pictures of {size} px: {first_lines(error)}") from error


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
        model.pretrained_cfg = {k: v for k, v in timm_cfg(model).items() if k != "state_dict"}  # type: ignore[assignment]
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
            place = timm_cfg(model).get("classifier")
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


def timm_cfg(model: nn.Module) -> dict[str, Any]:
    """What timm says of the network's pretraining; empty where it says nothing."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    return dict(config if isinstance(config, dict) else config.to_dict())


def fixed_input(model: nn.Module) -> bool:
    """Whether the network takes pictures of one size only, the one that it was built for."""
    if type(model).__module__.startswith("torchvision."):
        return type(model).__name__ in ("VisionTransformer", "MaxVit")
    return bool(timm_cfg(model).get("fixed_input_size"))


def _arguments(card: ModelCard) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in card.args.items())


def first_lines(error: BaseException) -> str:
    """What a library's error says, short enough to be a part of a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300]
