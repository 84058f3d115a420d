"""Heads and pooling that no plain model of the source library has: a hidden layer, fractional max pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

SHRINK = 2**-0.5
"""Side after fractional max pooling over the side before: each pooling halves the area (arXiv 1412.6071)."""


class Bottleneck(nn.Module):
    """``classify(relu(reduce(x)))``: (N, in_features) -> (N, units) -> (N, out_features).

    Fewer units than features keep the head from telling the training images apart one by one; the
    non-linearity is what one linear layer of that rank would not have.
    """

    def __init__(self, in_features: int, units: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.units, self.out_features = in_features, units, out_features
        self.reduce = nn.Linear(in_features, units)
        self.act = nn.ReLU()
        self.classify = nn.Linear(units, out_features)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.act(self.reduce(x)))
        return logits

    @classmethod
    def drawn(cls, in_features: int, units: int, out_features: int, seed: int | None = None) -> Self:
        """He-normal weights (He et al. 2015) and zero biases; the global random state is left as it was."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            head = cls(in_features, units, out_features)
        for layer in (head.reduce, head.classify):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
        return head


class FractionalPool(nn.Module):
    """Fractional max pooling of the last feature map, then the network's own global pooling.

    (N, C, H, W) -> (N, C, H / sqrt 2, W / sqrt 2), rounded down, in regions drawn for each image and channel
    while training and fixed otherwise; Graham 2014, https://arxiv.org/abs/1412.6071. A map of one row or
    column is passed on as it is.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.inner(self.reduced(x))
        return pooled

    def reduced(self, x: Tensor) -> Tensor:
        """The map after fractional max pooling."""
        if min(x.shape[-2:]) < 2:
            return x
        shape = (x.shape[0], x.shape[1], 2)
        # torch draws the regions in eval mode too, if it is not given any.
        where = torch.rand(shape, dtype=x.dtype, device=x.device) if self.training else x.new_full(shape, 0.5)
        size = [int(side * SHRINK) for side in x.shape[-2:]]
        # Not every device has it in reduced formats; the map is small.
        return F.fractional_max_pool2d(x.float(), 2, output_size=size, _random_samples=where.float()).to(
            x.dtype
        )


def global_pool(model: nn.Module) -> str | None:
    """The name of the module that pools the last map of a convolutional network; None where there is none."""
    modules = dict(model.named_modules())
    names = ("global_pool", "head.global_pool", "avgpool")
    return next((name for name in names if name in modules and _pools_to_a_point(modules[name])), None)


def _pools_to_a_point(module: nn.Module) -> bool:
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return module.output_size in (1, (1, 1))
    pool = getattr(module, "pool", None) if type(module).__name__ == "SelectAdaptivePool2d" else None
    return pool is not None and not isinstance(pool, nn.Identity) and getattr(pool, "dim", (2, 3)) == (2, 3)
