"""Names and cards to Backbones; Backbones to folders and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from finetune.errors import ZooError, must
from finetune.zoo.backbone import Backbone
from finetune.zoo.card import ModelCard

_PROBE_SIZE = 96
"""Side of the picture that networks of any input size are traced with, pixels: quick, yet 3 x 3 at the end."""


def create_backbone(
    name: str | ModelCard, *, pretrained: bool = True, num_classes: int | None = None,
    image_size: int | None = None, seed: int = 0,
) -> Backbone:  # fmt: skip
    """A Backbone by zoo, timm, torchvision or hub name, weight file or card.

    ``num_classes`` None keeps the head that came with the weights. ``seed`` draws random weights and the
    new head; the global random state is left as it was. Raises ZooError.
    """
    from finetune.zoo.zoo import card

    chosen = name if isinstance(name, ModelCard) else card(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(chosen, pretrained=pretrained, num_classes=num_classes, image_size=image_size, seed=seed)


def build(card: ModelCard, *, pretrained: bool, num_classes: int | None, image_size: int | None, seed: int) -> Backbone:
    """As create_backbone, from a card, in the current random state."""
    import timm

    arguments: dict[str, Any] = dict(card.args)
    if card.source_classes:
        arguments["num_classes"] = card.source_classes
    model = timm.create_model(card.arch, pretrained=False, **arguments)
    if pretrained:
        from finetune.zoo.weights import load_weights

        load_weights(model, card)
    backbone = wrap(model, card, image_size)
    if num_classes is not None:
        backbone.reset_head(num_classes, seed)
    return backbone


def wrap(model: nn.Module, card: ModelCard, image_size: int | None = None) -> Backbone:
    """A timm model as a Backbone."""
    classifier = model.get_classifier()  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear):
        raise ZooError(must(f"classifier of {card.arch}", "a linear layer", type(classifier).__name__))
    path = next(name for name, module in model.named_modules() if module is classifier)
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return Backbone(
        model, card, head=classifier, head_path=path, head_shape=classifier.weight.shape,
        image_size=image_size, probe_size=min(_PROBE_SIZE, card.size),
    )  # fmt: skip
