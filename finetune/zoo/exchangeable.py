"""What can be exchanged in a Backbone: its head, its last pooling, its norms; and whether plain weights hold it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from finetune.data.preprocessing import Preprocessing
from finetune.errors import ZooError, must
from finetune.task import TaskName
from finetune.zoo.card import ModelCard
from finetune.zoo.group_norm import swap_batch_norms
from finetune.zoo.heads import Bottleneck, FractionalPool, global_pool


class Exchangeable(nn.Module):
    """The part of a Backbone that is not its stages. Not to be made on its own."""

    name: str
    card: ModelCard
    model: nn.Module
    preprocessing: Preprocessing
    widths: tuple[int, ...]
    feature_width: int
    num_stages: int
    head_taps: tuple[int, ...]
    head_path: str | None
    head_shape: torch.Size | None
    head: nn.Linear | Bottleneck
    task: TaskName = "single-label"
    """What the head's outputs are: logits of classes, logits of labels, or numbers."""
    pooling: Literal["global", "fractional"] = "global"
    """How the last feature map becomes the embedding: as the network does it, or see ``pool_fractionally``."""
    norm_layers: Literal["own", "group"] = "own"
    """Its own, or see ``use_group_norms``."""

    @property
    def num_classes(self) -> int:
        """Outputs of the head."""
        return self.head.out_features

    def reset_head(self, num_classes: int, seed: int | None = None) -> None:
        """A new head on the embedding: He-normal weights (He et al. 2015), zero bias."""
        if num_classes < 1:
            raise ZooError(must("num_classes", "an int > 0", num_classes))
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        weight = torch.empty(num_classes, self.feature_width)
        nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
        self.set_head(weight, torch.zeros(num_classes))

    def set_head(self, weight: Tensor, bias: Tensor, taps: tuple[int, ...] | None = None) -> None:
        """Put in a solved head: weight (K, D), bias (K,); D sums the widths of ``taps`` (None: the last)."""
        chosen = tuple(taps) if taps else (self.num_stages - 1,)
        if any(not 0 <= i < self.num_stages for i in chosen) or len(set(chosen)) != len(chosen):
            raise ZooError(must("head taps", f"different stages in 0..{self.num_stages - 1}", chosen))
        width = sum(self.widths[i] for i in chosen)
        if weight.ndim != 2 or weight.shape[1] != width or tuple(bias.shape) != (weight.shape[0],):
            raise ZooError(
                must(
                    "head",
                    f"a weight (K, {width}) and a bias (K,)",
                    f"{tuple(weight.shape)}, {tuple(bias.shape)}",
                )
            )
        old = next(self.head.parameters())
        with torch.random.fork_rng(devices=[]):  # the layer's own random weights, drawn and then overwritten
            head = nn.Linear(width, weight.shape[0], dtype=old.dtype).to(old.device)
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)
        self.head = head.train(self.training)
        self.head_taps = chosen

    def set_bottleneck(self, units: int, num_classes: int, seed: int | None = None) -> None:
        """A new head on the embedding with a hidden layer of ``units``; no plain model has a place for it."""
        like = next(self.head.parameters())
        head = Bottleneck.drawn(self.feature_width, units, num_classes, seed)
        self.head = head.to(like.device, like.dtype).train(self.training)
        self.head_taps = (self.num_stages - 1,)

    def pool_fractionally(self) -> None:
        """Fractional max pooling of the last map before the network's own pooling, from now on.

        Raises ZooError where the network does not pool a map of its own in a module that can be replaced.
        """
        if self.pooling == "fractional":
            return
        name = global_pool(self.model)
        if name is None:
            raise ZooError(
                must(
                    "train.head", f"linear or bottleneck for {self.name}", "'fractional-pool'",
                    "It needs a convolutional network that pools its last feature map.",
                )
            )  # fmt: skip
        parent, _, leaf = name.rpartition(".")
        pool = FractionalPool(self.model.get_submodule(name))
        setattr(self.model.get_submodule(parent), leaf, pool)
        self.pooling = "fractional"
        self.train(self.training)

    def use_group_norms(self) -> int:
        """Group norms in the place of all batch norms, from now on; how many there were. Raises ZooError for none."""
        if self.norm_layers == "group":
            return 0
        count = swap_batch_norms(self.model)
        if not count:
            raise ZooError(
                must("norm_layers", f"own for {self.name}", "'group'", "The network has no batch norms.")
            )
        self.norm_layers = "group"
        self.train(self.training)
        return count

    @property
    def is_usual(self) -> bool:
        """Whether a linear layer on some of its stages is all that the source library may not have."""
        usual = self.pooling == "global" and self.norm_layers == "own"
        return usual and isinstance(self.head, nn.Linear) and self.preprocessing.mean_image is None

    @property
    def is_plain(self) -> bool:
        """Whether the source library's own model holds all of this network, head included."""
        own = self.head_path is not None and self.head_taps == (self.num_stages - 1,)
        return own and self.is_usual

    def plain_state_dict(self) -> dict[str, Tensor]:
        """The weights under the source library's names. Raises ZooError where the head has no place there."""
        if self.head_path is None or not self.is_plain or not isinstance(self.head, nn.Linear):
            raise ZooError(f"The head of {self.name} has no counterpart in plain {self.card.source} weights.")
        state = dict(self.model.state_dict())
        shape = (self.num_classes, *(self.head_shape or self.head.weight.shape)[1:])
        state[f"{self.head_path}.weight"] = self.head.weight.detach().reshape(shape)
        state[f"{self.head_path}.bias"] = self.head.bias.detach()
        return state
