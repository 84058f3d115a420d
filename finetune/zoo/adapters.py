"""LoRA adapters: small trainable matrices beside frozen linear layers, merged into them afterwards.

Hu et al. 2021, https://arxiv.org/abs/2106.09685: a layer computes ``W x + (alpha / r) B A x`` with A (r, in)
random and B (out, r) zero, so training starts at the pretrained network. The arithmetic is peft's; what is
here chooses the layers of a Backbone and leaves a plain network behind.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import TrainingError
from finetune.zoo.backbone import Backbone

ALPHA = 2
"""alpha / r: what an adapter's output is multiplied by."""


NOT_HERE = "not for this network"


def require(backbone: Backbone, train_from: int) -> list[str]:
    """The layers that get adapters; what ``attach`` refuses is refused here, before anything is computed."""
    if not _has_peft():
        raise TrainingError(
            "trains: lora needs the package peft. Got no such package instead. "
            "Install it with: pip install 'finetune[lora]'"
        )
    names = adaptable(backbone, train_from)
    if not names:
        raise TrainingError(
            f"trains: lora needs linear layers in stages {train_from} and up. {backbone.name} has none there. "
            "Use strategy norm-bias or partial for this network."
        )
    return names


def adaptable(backbone: Backbone, train_from: int) -> list[str]:
    """Names of the linear layers of the stages from ``train_from`` on that run when the network does."""
    names = [
        name
        for name, module in backbone.model.named_modules()
        if isinstance(module, nn.Linear) and backbone.stage_of(name) >= train_from
    ]
    called = _called(backbone, names) if names else set()
    return [name for name in names if name in called]


def why_not(backbone: Backbone, train_from: int) -> str | None:
    """Why there are no adapters from that stage on, in a few words; None where there can be."""
    if not adaptable(backbone, train_from):
        return NOT_HERE
    return None if _has_peft() else "needs the package peft"


def _has_peft() -> bool:
    try:
        import peft  # noqa: F401
    except ImportError:
        return False
    return True


def attach(backbone: Backbone, rank: int, train_from: int, seed: int = 0) -> tuple[str, ...]:
    """Put adapters beside every linear layer of the stages from ``train_from`` on; the names of the layers.

    Only adapters and the head stay trainable. Layers whose weights the network reads without calling them
    (some attention blocks do) are left as they were. Raises TrainingError where peft is not installed or the
    stages hold no linear layer.
    """
    names = require(backbone, train_from)
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=ALPHA * rank, target_modules=names, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of what a language model would need
        torch.manual_seed(seed)
        inject_adapter_in_model(config, backbone.model)
    freeze_all_but_adapters(backbone)
    return tuple(names)


def freeze_all_but_adapters(backbone: Backbone) -> None:
    """Of the network's body only the adapters need gradients."""
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


@torch.no_grad()
def merge(backbone: Backbone, names: tuple[str, ...]) -> None:
    """Add every adapter into its layer and put the plain layer back: nothing of peft remains."""
    for name in names:
        adapted: Any = backbone.model.get_submodule(name)
        adapted.merge()
        parent, _, leaf = name.rpartition(".")
        setattr(backbone.model.get_submodule(parent), leaf, adapted.get_base_layer())
    if hasattr(backbone.model, "peft_config"):
        del backbone.model.peft_config


def adapted_layers(backbone: Backbone) -> tuple[str, ...]:
    """Names of the layers that have adapters beside them now."""
    suffix = ".base_layer"
    return tuple(
        name.removesuffix(suffix) for name, _ in backbone.model.named_modules() if name.endswith(suffix)
    )


def targets(backbone: Backbone, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The weights that merging will have changed, under the names that they have in the plain network."""
    tensors = {}
    for name in names:
        layer: Any = backbone.model.get_submodule(name)
        tensors[f"model.{name}.weight"] = getattr(layer, "base_layer", layer).weight
    return tensors | dict(backbone.head_parameters())


def _called(backbone: Backbone, names: list[str]) -> set[str]:
    """Which of the modules run when the network does."""
    seen: set[str] = set()
    handles = [
        backbone.model.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.add(name))
        for name in names
    ]
    try:
        backbone.run_probe()
    finally:
        for handle in handles:
            handle.remove()
    return seen
