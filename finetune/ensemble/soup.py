"""The mean of the weights of several networks of one architecture.

Wortsman et al. 2022, https://arxiv.org/abs/2203.05482: networks finetuned from the same pretrained weights lie
in one basin, and the middle of it is often better than each. Networks that started elsewhere have no middle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetune.ensemble.candidates import Candidate
from finetune.errors import RunError, must
from finetune.strategy.plan import Plan
from finetune.training.norms import norms_of, reestimate

if TYPE_CHECKING:
    from finetune.data.imageset import ImageSet
    from finetune.zoo.backbone import Backbone


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The equal mean of every floating tensor, in float64 and back; counters are the first's.

    >>> mean_state([{"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}])["w"].item()
    1.5
    """
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype)
        if first.is_floating_point()
        else first.clone()
        for name, first in states[0].items()
    }


class Pot:
    """The ingredients, held against each other, and any mixture of them."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        """Raises RunError where two networks have no common middle."""
        self.candidates = candidates
        _refuse_different(candidates)
        self.backbone: Backbone = candidates[0].run.backbone
        self.states = [
            {name: tensor.clone() for name, tensor in c.run.backbone.state_dict().items()} for c in candidates
        ]
        self.train: ImageSet | None = None
        """Images that differing norms are re-estimated on."""
        self._moved = [
            (name, layer)
            for name, layer in self.backbone.named_modules()
            if any(layer is norm for norm in norms_of(self.backbone))
            and any(
                not torch.equal(state[f"{name}.{buffer}"], self.states[0][f"{name}.{buffer}"])
                for state in self.states
                for buffer in ("running_mean", "running_var")
            )
        ]

    @property
    def norms(self) -> str:
        """One line about the running statistics."""
        if not self._moved:
            return "Batch norms: the same statistics in all networks, or none."
        how = "re-estimated on the training images" if self.train is not None else "averaged"
        return f"Batch norms: the statistics of {len(self._moved)} layers differ and are {how}."

    def mix(self, ingredients: Sequence[int]) -> Backbone:
        """The network with the mean of these networks' weights; the same object each time."""
        self.backbone.load_state_dict(mean_state([self.states[i] for i in ingredients]))
        if self._moved and self.train is not None and len(ingredients) > 1:
            device = next(self.backbone.parameters()).device
            reestimate(self.backbone, self.train, device, 1, 0, [layer for _, layer in self._moved])
        return self.backbone.eval()


def _refuse_different(candidates: Sequence[Candidate]) -> None:
    first, *others = [(candidate, _kind(candidate)) for candidate in candidates]
    for candidate, kind in [first, *others]:
        path = candidate.run.path / "plan.yaml"
        if path.is_file() and Plan.from_yaml(path.read_text(encoding="utf-8"), str(path)).init == "random":
            raise RunError(
                must(
                    f"Run {str(candidate.run.path)!r}",
                    "one that began with pretrained weights, as all others, to be averaged with them",
                    "one from random weights",
                    "Average its answers instead: finetune ensemble without --soup.",
                )
            )
        for what, value in kind.items():
            if value != first[1][what]:
                raise RunError(
                    must(
                        f"The {what} of run {str(candidate.run.path)!r}",
                        f"that of {str(first[0].run.path)!r} ({first[1][what]}) for their weights to be averaged",
                        value,
                        "Average the answers instead: finetune ensemble without --soup.",
                    )
                )


def _kind(candidate: Candidate) -> dict[str, Any]:
    """What must be equal, by the name that a message calls it."""
    config = json.loads((candidate.run.folder.model / "config.json").read_text(encoding="utf-8"))
    ours = config["finetune"]
    return {
        "architecture": config["architecture"],
        "arguments": config["model_args"],
        "pretrained weights": ours["card"]["name"],
        "image size": ours["image_size"],
        "bottleneck": ours.get("bottleneck"),
        "pooling": ours.get("pooling"),
        "head's stages": ours["head_taps"],
    }
