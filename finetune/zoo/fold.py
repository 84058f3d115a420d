"""Folding batch norms into the convolutions before them: the same answers with fewer passes over memory."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from finetune.zoo.trace import Call, trace

if TYPE_CHECKING:
    from finetune.zoo.backbone import Backbone

B = TypeVar("B", bound="Backbone")

_CONVOLUTIONS = {"Conv2d", "Conv2dSame"}
"""By exact name: a weight-standardised convolution is a subclass whose weights must not be touched."""


def folded(network: B, x: Tensor) -> B:
    """A channels_last copy for inference of a Backbone, with its batch norms folded where that is right.

    The answers to ``x`` are compared; where folding changed them by more than 1e-4 of their size the copy
    keeps its batch norms.
    """
    with torch.no_grad():
        expected = _eval_copy(network).embed(x)
        twin = _eval_copy(network)
        fold_batch_norms(twin.model, trace(twin.model, twin.embed, x))
        error = (twin.embed(x) - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    chosen = twin if error < 1e-4 else _eval_copy(network)
    return chosen.to(memory_format=torch.channels_last)


def _eval_copy(network: B) -> B:
    return copy.deepcopy(network).eval().requires_grad_(False)


def fold_batch_norms(model: nn.Module, calls: dict[str, Call]) -> int:
    """Fold, in place, every batch norm whose input is the output of a convolution; how many were folded.

    ``calls`` is the trace of the model. The caller compares the answers: that a convolution's output also
    goes elsewhere cannot be seen in a trace.
    """
    made_by = {
        id(call.output): call
        for call in calls.values()
        if type(call.module).__name__ in _CONVOLUTIONS and call.output is not None and call.simple
    }
    folded = 0
    for call in list(calls.values()):
        norm = call.module
        maker = made_by.get(id(call.input)) if call.input is not None else None
        replacement = _without_norm(norm)
        if maker is None or replacement is None or not call.simple:
            continue
        conv = maker.module
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        with torch.no_grad():
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
        parent, _, attribute = call.name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, replacement)
        folded += 1
    return folded


def _without_norm(norm: nn.Module) -> nn.Module | None:
    """What stays of a batch norm after folding; None where it is none that can be folded."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
        return None
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    if type(norm).__name__ == "BatchNormAct2d":  # timm's: norm, dropout, activation
        return nn.Sequential(norm.get_submodule("drop"), norm.get_submodule("act"))
    return None
