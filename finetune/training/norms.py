"""Batch norms re-estimated on the target: the same weights, centred and scaled by the new images' statistics.

Li et al. 2016, https://arxiv.org/abs/1603.04779 (AdaBN). Costs forward passes and nothing else: ``probe.norms=try``
keeps them where the head then does better out of fold. Nobody does so unasked: in the regret benchmark the pick gained
nothing (docs/regret.md).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from finetune.data.batches import eval_batches

if TYPE_CHECKING:
    from finetune.data.imageset import ImageSet
    from finetune.zoo.backbone import Backbone

BATCH = 64


def norms_of(backbone: Backbone) -> list[nn.modules.batchnorm._NormBase]:
    """The layers that normalise by running statistics."""
    kind = nn.modules.batchnorm._NormBase
    return [m for m in backbone.model.modules() if isinstance(m, kind) and m.running_mean is not None]


def statistics(backbone: Backbone) -> list[dict[str, Tensor]]:
    """A copy of all running statistics, for ``restore``."""
    return [{name: t.clone() for name, t in m.named_buffers(recurse=False)} for m in norms_of(backbone)]


def moving(backbone: Backbone) -> list[nn.modules.batchnorm._NormBase]:
    """Those whose running statistics training moves: neither frozen nor below the frozen stages."""
    mode = backbone.training
    backbone.train()
    found = [module for module in norms_of(backbone) if module.training]
    backbone.train(mode)
    return found


@torch.no_grad()
def restore(backbone: Backbone, saved: list[dict[str, Tensor]]) -> None:
    """The inverse of ``statistics``, bit for bit."""
    for module, buffers in zip(norms_of(backbone), saved, strict=True):
        for name, tensor in module.named_buffers(recurse=False):
            tensor.copy_(buffers[name])


@torch.inference_mode()
def reestimate(
    backbone: Backbone,
    images: ImageSet,
    device: torch.device,
    threads: int,
    seed: int = 0,
    layers: list[nn.modules.batchnorm._NormBase] | None = None,
) -> bool:
    """Replace every running statistic by its mean over batches of these images, in an order drawn by ``seed``.

    ``layers``: only theirs; None: all of the network's.

    Batches of 64, the images as evaluation sees them; a rest of fewer than 64 is left out where there are whole
    batches. False, and nothing changed, where the network has no such layers or there are under two images.
    """
    layers = norms_of(backbone) if layers is None else layers
    if not layers or len(images) < 2:
        return False
    # In the order of the folder a batch would hold one class, and its variance would lack that between classes.
    order = np.random.default_rng(seed).permutation(len(images))
    order = order[: len(order) // BATCH * BATCH] if len(order) >= BATCH else order
    backbone.eval()
    momentum = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over all batches, as torch.optim.swa_utils.update_bn does
        layer.training = True
    try:
        for pixels in eval_batches(images.subset(order), backbone.preprocessing, BATCH, threads):
            backbone.embed(backbone.preprocessing.normalise(pixels.to(device)))
    finally:
        for layer, value in zip(layers, momentum, strict=True):
            layer.momentum = value
        backbone.eval()
    return True


def norms_line(losses: dict[str, float]) -> str:
    """One line about the norms that were tried."""
    kept = "kept" if losses["target"] < losses["source"] else "not kept"
    if not all(map(math.isfinite, losses.values())):
        return (
            "Batch norms keep the pretrained statistics: with nothing to hold out, nothing can be compared."
        )
    return (
        f"Batch norms re-estimated on these images: held-out log-loss {losses['target']:.3f} instead of "
        f"{losses['source']:.3f}; {kept}."
    )
