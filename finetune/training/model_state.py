"""A network's weights as a checkpoint keeps them, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from finetune.training.sharded import put

if TYPE_CHECKING:
    from finetune.zoo.backbone import Backbone


def trained_tensors(backbone: Backbone) -> dict[str, Tensor]:
    """Parameters that require a gradient, and all buffers that are saved (running statistics)."""
    return {
        name: tensor
        for name, tensor in backbone.state_dict(keep_vars=True).items()
        if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
    }


def model_state(backbone: Backbone) -> dict[str, Any]:
    """All weights, and which stages feed the head."""
    return {"weights": backbone.state_dict(), "head_taps": list(backbone.head_taps)}


def load_model_state(backbone: Backbone, state: dict[str, Any]) -> None:
    """The inverse of model_state, whatever head the model has now."""
    weights = state["weights"]
    if "head.weight" in weights:
        backbone.set_head(weights["head.weight"], weights["head.bias"], tuple(state["head_taps"]))
    else:
        backbone.set_bottleneck(len(weights["head.reduce.bias"]), len(weights["head.classify.bias"]))
    backbone.load_state_dict(weights)


@torch.no_grad()
def load_tensors(backbone: Backbone, tensors: dict[str, Tensor]) -> None:
    """Copy named tensors into the model, in place."""
    live = backbone.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        put(live[name], tensor)
