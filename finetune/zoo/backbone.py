"""The Backbone: a pretrained network as ordered stages, pooled taps and a replaceable linear head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from finetune.data.preprocessing import Preprocessing
from finetune.errors import ZooError, must
from finetune.zoo.card import ModelCard
from finetune.zoo.exchangeable import Exchangeable
from finetune.zoo.fold import folded
from finetune.zoo.split import Reached, find_cuts, inside, run_tail
from finetune.zoo.stages import Tap, captured, find_layout
from finetune.zoo.trace import first_tensor, trace


class Backbone(Exchangeable):
    """A network without its classifier (``model``), and a linear ``head`` of our own.

    Stages are counted from the input (0, the stem) to the head. Every parameter of ``model`` is in exactly
    one stage. ``head_path`` is the name of the classifier inside the source's own model, so that the weights
    can be written back under the names that plain timm or torchvision reads; None where it has none.
    """

    def __init__(
        self,
        model: nn.Module,
        card: ModelCard,
        *,
        head: nn.Linear | None,
        head_path: str | None,
        head_shape: torch.Size | None,
        image_size: int | None = None,
        probe_size: int | None = None,
        built_size: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.card = card
        self.name = card.name
        self.preprocessing: Preprocessing = card.preprocessing
        if image_size is not None:
            self.preprocessing = replace(self.preprocessing, size=image_size)
        self.own_statistics = False
        """Whether the mean and std of its preprocessing are another data set's than its card says."""
        self.head_path = head_path
        self.head_shape = head_shape
        self._probe_size = probe_size or self.preprocessing.size
        self._timm_style = hasattr(model, "forward_features") and hasattr(model, "forward_head")
        self._frozen_below = 0
        self._norms_frozen = card.freeze_norms
        self.built_size = built_size
        """Input side that a network of fixed input was built for, pixels; None where any side will do."""
        x = self._probe()
        body_output: list[Tensor] = []

        def run(x: Tensor) -> Tensor:
            if self._timm_style:
                body_output.append(model.forward_features(x))  # type: ignore[operator]
                return _flat(model.forward_head(body_output[0], pre_logits=True))  # type: ignore[operator]
            body_output.append(_flat(model(x)))
            return body_output[0]

        calls = trace(model, run, x)
        embedding = calls[""].output
        assert embedding is not None
        self._layout = find_layout(model, card.arch, calls, embedding, card.stages)
        self.stage_names: tuple[str, ...] = self._layout.names
        self.widths: tuple[int, ...] = self._layout.widths
        self.feature_width: int = self.widths[-1]
        self.num_stages: int = len(self.stage_names)
        self.head_taps: tuple[int, ...] = (self.num_stages - 1,)
        self._cuts = find_cuts(model, calls, self._layout.ends, body_output[0], timm_style=self._timm_style)
        if head is not None and head.in_features == self.feature_width:
            self.head = head
        else:
            # No classifier came with the weights, or one that reads something else than the embedding.
            self.head = nn.Linear(self.feature_width, max(1, card.source_classes))
            self.head_path = head_path if head is None else None
            self.head_shape = None

    # --- forward passes ---------------------------------------------------------------------------------

    def _embedding(self, x: Tensor) -> Tensor:
        if self._timm_style:
            features = self.model.forward_features(x)  # type: ignore[operator]
            return _flat(self.model.forward_head(features, pre_logits=True))  # type: ignore[operator]
        return _flat(self.model(x))

    def embed(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) normalised -> (N, feature_width): what the head sees."""
        return self._embedding(x)

    def taps(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> one pooled (N, widths[i]) vector a stage; the last is exactly the embedding."""
        with captured(self.model, self._layout.taps, range(self.num_stages - 1)) as found:
            embedding = self._embedding(x)
        return [*(found[i] for i in range(self.num_stages - 1)), embedding]

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) normalised -> (N, num_classes) logits."""
        with captured(self.model, self._layout.taps, self.head_taps) as found:
            embedding = self._embedding(x)
        return self._logits(found, embedding)

    def _logits(self, found: dict[int, Tensor], embedding: Tensor) -> Tensor:
        parts = [found[i] if i < self.num_stages - 1 else embedding for i in self.head_taps]
        logits: Tensor = self.head(parts[0] if len(parts) == 1 else torch.cat(parts, 1))
        return logits

    def tap(self, stage: int) -> Tap | None:
        """Where a stage's feature vector is read; None of the last, whose vector is the embedding."""
        return self._layout.taps[stage] if stage < self.num_stages - 1 else None

    # --- cutting the network in two ---------------------------------------------------------------------

    @property
    def supports_split(self) -> bool:
        """Whether ``prefix``/``suffix`` work at every stage boundary."""
        return all(self.can_split(stage) for stage in range(1, self.num_stages))

    def can_split(self, stage: int) -> bool:
        """Whether the activations that enter ``stage`` are all that the rest of the network needs."""
        return stage == 0 or stage in self._cuts

    def prefix(self, x: Tensor, stage: int) -> Tensor:
        """Run stages below ``stage``; the activations that enter it. Raises ZooError for a stage
        where the network cannot be cut."""
        self._check_split(stage)
        if stage == 0:
            return x
        entry = self._cuts[stage].entry
        if not entry:
            return self.model.forward_features(x)  # type: ignore[operator,no-any-return]
        module = self.model.get_submodule(entry)

        def stop(_: nn.Module, args: tuple[Any, ...]) -> None:
            raise Reached(args[0])

        handle = module.register_forward_pre_hook(stop)
        try:
            self._embedding(x)
        except Reached as reached:
            return reached.value
        finally:
            handle.remove()
        raise ZooError(f"Stage {stage} of {self.name} did not run.")

    def suffix(self, h: Tensor, stage: int) -> Tensor:
        """Activations entering ``stage`` -> logits. Raises ZooError where the network cannot be cut, or
        where the head reads a stage below."""
        self._check_split(stage)
        if stage == 0:
            return self(h)  # type: ignore[no-any-return]
        if min(self.head_taps) < stage:
            raise ZooError(
                f"The head of {self.name} reads stage {min(self.head_taps)}, below the cut at {stage}."
            )
        cut = self._cuts[stage]
        taps = tuple(inside(tap, cut) for tap in self._layout.taps)
        with captured(self.model, taps, self.head_taps) as found:
            embedding = _flat(run_tail(self.model, cut, h))
        return self._logits(found, embedding)

    def _check_split(self, stage: int) -> None:
        if not 0 <= stage < self.num_stages:
            raise ZooError(must("stage", f"in 0..{self.num_stages - 1}", stage))
        if not self.can_split(stage):
            raise ZooError(f"{self.name} cannot be cut below stage {stage} ({self.stage_names[stage]}).")

    # --- stages -----------------------------------------------------------------------------------------

    def stage_of(self, module: str) -> int:
        """Stage of a module, by its name inside ``model``."""
        return self._layout.stage_of(module)

    def stage_parameters(self, stage: int) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) of one stage; names as in ``named_parameters()``."""
        if not 0 <= stage < self.num_stages:
            raise ZooError(must("stage", f"in 0..{self.num_stages - 1}", stage))
        return [
            (f"model.{name}", parameter)
            for name, parameter in self.model.named_parameters()
            if self._layout.stage_of(name.rpartition(".")[0]) == stage
        ]

    def head_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) of the head."""
        return [(f"head.{name}", parameter) for name, parameter in self.head.named_parameters()]

    def freeze_below(self, stage: int) -> None:
        """Train stages >= ``stage`` and the head only (``num_stages``: the head alone).

        Below it parameters need no gradient and every module stays in eval mode, so that weights and running
        statistics keep their bits and dropout does not act.
        """
        if not 0 <= stage <= self.num_stages:
            raise ZooError(must("stage", f"in 0..{self.num_stages}", stage))
        self._frozen_below = stage
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._layout.stage_of(name.rpartition(".")[0]) >= stage)
        self.train(self.training)

    def freeze_kernels(self) -> None:
        """Of the stages that train, leave only vectors free: scales and shifts of norms, and biases.

        ``freeze_below`` frees them again.
        """
        for parameter in self.model.parameters():
            if parameter.ndim > 1:
                parameter.requires_grad_(False)

    def freeze_norms(self, frozen: bool = True) -> None:
        """Keep the running statistics of trained stages (their scale and shift still train)."""
        self._norms_frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """As nn.Module.train, but frozen stages and frozen norms stay in eval mode."""
        super().train(mode)
        if mode:
            if self._frozen_below >= self.num_stages:
                self.model.eval()
            elif self._frozen_below or self._norms_frozen:
                for name, module in self.model.named_modules():
                    below = name != "" and self._is_below(name)
                    if below or (self._norms_frozen and _has_statistics(module)):
                        module.training = False
        return self

    def _is_below(self, module: str) -> bool:
        return self._layout.stage_of(module) < self._frozen_below

    # --- inference --------------------------------------------------------------------------------------

    def with_size(self, size: int) -> Backbone:
        """The same network, in place, with another input size in its preprocessing."""
        self.preprocessing = replace(self.preprocessing, size=size)
        return self

    def with_statistics(self, prep: Preprocessing) -> Backbone:
        """The same network, in place, with the mean, std and mean image of ``prep`` in its preprocessing."""
        self.preprocessing = replace(
            self.preprocessing, mean=prep.mean, std=prep.std, mean_image=prep.mean_image
        )
        self.own_statistics = True
        return self

    def fold(self) -> Backbone:
        """A copy for inference: batch norms folded into the convolutions before them, channels_last.

        The answers are compared on a random image; where folding changed them by more than 1e-4 of their
        size the copy keeps its batch norms.
        """
        return folded(self, self._probe())

    @torch.no_grad()
    def run_probe(self) -> None:
        """One random picture through the body, in eval mode, for hooks to see which modules run."""
        mode = self.training
        self.eval()
        self._embedding(self._probe())
        self.train(mode)

    def _probe(self) -> Tensor:
        """One random picture, always the same, on the network's device."""
        like = next(self.model.parameters())
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, 3, self._probe_size, self._probe_size, generator=generator)
        return x.to(device=like.device, dtype=like.dtype)


def _flat(h: Any) -> Tensor:
    tensor = first_tensor(h)
    if tensor is None:
        raise ZooError(must("embedding", "a tensor", type(h).__name__))
    return tensor.flatten(1)


def _has_statistics(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None
