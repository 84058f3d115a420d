"""Group norms in the place of batch norms: they need no statistics of a batch, so a batch may be tiny.

Wu and He 2018, https://arxiv.org/abs/1803.08494. Scale and shift are taken over, running statistics are not: the
answers of the pretrained network change, and training has to bring them back.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

GROUPS = 32
"""At most; as many as divide the channels with it."""


class GroupNormAct(nn.GroupNorm):
    """What stands for timm's norm, dropout and activation in one."""

    def __init__(self, like: nn.BatchNorm2d) -> None:
        super().__init__(groups_for(like.num_features), like.num_features, like.eps)
        self.drop, self.act = like.get_submodule("drop"), like.get_submodule("act")

    def forward(self, input: Tensor) -> Tensor:
        x: Tensor = self.act(self.drop(super().forward(input)))
        return x


def groups_for(channels: int) -> int:
    """Groups of a layer.

    >>> groups_for(512), groups_for(40), groups_for(3)
    (32, 8, 1)
    """
    return math.gcd(GROUPS, channels)


def swap_batch_norms(model: nn.Module) -> int:
    """Replace, in place, every 2d batch norm that has a scale and a shift; how many there were."""
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and m.affine]
    for name, norm in found:
        made = (
            GroupNormAct(norm)
            if hasattr(norm, "drop") and hasattr(norm, "act")
            else nn.GroupNorm(groups_for(norm.num_features), norm.num_features, norm.eps)
        )
        made.weight, made.bias = norm.weight, norm.bias
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, made.train(norm.training))
    return len(found)
