"""A finetuned network whose head reads several stages, for programs without finetune.

    from model import load

    network = load()    # (N, 3, S, S) normalised images -> (N, K) logits, in eval mode

This file lies beside model.safetensors and config.json. It needs torch, safetensors and the library that built the
network, timm or torchvision; config.json has the classes (``label_names``) and the preprocessing (``pretrained_cfg``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class Network(nn.Module):
    """The library's network, and a linear layer on the means of some stages' maps over their positions."""

    def __init__(self, body: nn.Module, taps: list[dict[str, Any] | None], width: int, outputs: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, outputs)
        self.taps = taps
        """Where a stage's map is read; None stands for the network's own embedding."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) normalised -> (N, K) logits."""
        found: dict[int, Tensor] = {}
        handles = [self._watch(i, tap, found) for i, tap in enumerate(self.taps) if tap is not None]
        try:
            embedding = self._embedding(x)
        finally:
            for handle in handles:
                handle.remove()
        logits: Tensor = self.head(torch.cat([found.get(i, embedding) for i in range(len(self.taps))], 1))
        return logits

    def _embedding(self, x: Tensor) -> Tensor:
        if hasattr(self.body, "forward_features") and hasattr(self.body, "forward_head"):  # timm
            features = self.body.forward_features(x)  # type: ignore[operator]
            return _tensor(self.body.forward_head(features, pre_logits=True)).flatten(1)  # type: ignore[operator]
        return _tensor(self.body(x)).flatten(1)

    def _watch(self, i: int, tap: dict[str, Any], found: dict[int, Tensor]) -> Any:
        module = self.body.get_submodule(tap["module"])
        if tap["side"] == "input":
            return module.register_forward_pre_hook(lambda _, args: _keep(found, i, tap, args))
        return module.register_forward_hook(lambda _, args, output: _keep(found, i, tap, output))


def _keep(found: dict[int, Tensor], i: int, tap: dict[str, Any], value: Any) -> None:
    h, layout = _tensor(value), tap["layout"]
    if layout == "NLC":  # class and register tokens come first
        pooled = h[:, tap["skip_tokens"] :].mean(1)
    else:
        pooled = h.mean((2, 3)) if layout == "NCHW" else h.mean((1, 2)) if layout == "NHWC" else h
    found.setdefault(i, pooled)


def _tensor(value: Any) -> Tensor:
    """The tensor, or the first one of several."""
    while not isinstance(value, Tensor):
        value = value[0]
    return value


def load(folder: str | Path = Path(__file__).parent) -> Network:
    """The network of a folder, in eval mode."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stages, arguments = config["several_stages"], dict(config["model_args"])
    if stages["source_classes"]:
        arguments["num_classes"] = stages["source_classes"]
    body: Any
    if stages["library"] == "torchvision":
        import torchvision

        body = torchvision.models.get_model(config["architecture"], weights=None, **arguments)
    else:
        import timm

        body = timm.create_model(config["architecture"], pretrained=False, **arguments)
    if stages["classifier"] is None:
        body.reset_classifier(0)
    else:
        parent, _, name = stages["classifier"].rpartition(".")
        setattr(body.get_submodule(parent), name, nn.Identity())
    state = load_file(folder / "model.safetensors")
    outputs, width = state["head.weight"].shape
    network = Network(body, stages["taps"], width, outputs)
    network.load_state_dict({name.replace("model.", "body.", 1): value for name, value in state.items()})
    return network.eval()
