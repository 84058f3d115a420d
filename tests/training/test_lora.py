"""Adapters: what trains, that they are merged, and that runs with them resume."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.errors import Interrupted, TrainingError
from finetune.strategy.plan import ProbePhase
from finetune.training.execute import execute
from finetune.training.job import Job
from finetune.zoo.adapters import attach, merge
from finetune.zoo.create import create_backbone

pytest.importorskip("peft")
PROBE = ProbePhase(candidates=((4,),), folds=2)


def vit() -> Any:
    return create_backbone("test_vit", pretrained=False, num_classes=3, image_size=None, seed=0)


def tune(tiny: Any, **changes: Any) -> Any:
    settings = {"train_from": 3, "trains": "lora", "lora_rank": 2, "optimizer": "adamw", "lr": 0.01, "keep": "last",
                "ema": None, "epochs": 2, "batch_norm": "frozen", **changes}  # fmt: skip
    return tiny.phase(**settings)


def test_attached_adapters_change_nothing_and_merging_adds_their_product() -> None:
    backbone = vit().eval()
    x = torch.randn(2, 3, backbone.preprocessing.size, backbone.preprocessing.size)
    before, plain = backbone(x), {k: v.clone() for k, v in backbone.state_dict().items()}
    names = attach(backbone, rank=2, train_from=3)
    assert names
    assert all(backbone.stage_of(name) >= 3 for name in names)
    assert torch.equal(backbone(x), before)
    layer: Any = backbone.model.get_submodule(names[0])
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b.normal_()
    adapted = backbone(x)
    merge(backbone, names)
    torch.testing.assert_close(backbone(x), adapted, rtol=1e-4, atol=1e-5)
    assert backbone.state_dict().keys() == plain.keys()
    expected = plain[f"model.{names[0]}.weight"] + 2.0 * (b @ a)  # alpha / r = 2
    torch.testing.assert_close(backbone.state_dict()[f"model.{names[0]}.weight"], expected.detach())


def test_only_adapters_and_the_head_train_and_a_plain_network_remains(tiny: Any, tmp_path: Path) -> None:
    phase = tune(tiny, blend=(0.0, 0.5, 1.0))
    backbone = execute(tiny.plan(PROBE, phase), vit(), tiny.bundle(), tiny.recipe(), tmp_path)
    fresh = vit().state_dict()
    moved = {n for n, v in backbone.state_dict().items() if n in fresh and not torch.equal(v, fresh[n])}
    body = {n for n in moved if n.startswith("model.")}
    assert backbone.state_dict().keys() == fresh.keys()
    facts = json.loads((tmp_path / "training.json").read_text())["phases"]["1"]
    assert bool(body) is (facts["blend"]["alpha"] > 0)
    assert all(n.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight")) for n in body)
    tensors = [t for group in facts["groups"] for t in group["tensors"]]
    assert all(".lora_" in t or t.startswith("head.") for t in tensors)


def test_the_safety_net_undoes_adapters_too(tiny: Any, tmp_path: Path) -> None:
    """At the start of the line the merged layers are the pretrained ones again, halfway half as far."""
    ends = {}
    for alpha in (0.0, 0.5, 1.0):
        plan = tiny.plan(PROBE, tune(tiny, blend=(alpha,)))
        backbone = execute(plan, vit(), tiny.bundle(), tiny.recipe(), tmp_path / str(alpha))
        ends[alpha] = {n: v for n, v in backbone.state_dict().items() if n.startswith("model.")}
    fresh = vit().state_dict()
    assert all(torch.equal(v, fresh[n]) for n, v in ends[0.0].items())
    assert any(not torch.equal(v, fresh[n]) for n, v in ends[1.0].items())
    for name, value in ends[0.5].items():
        torch.testing.assert_close(value, (fresh[name] + ends[1.0][name]) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("at", [3, 8])
def test_a_resumed_run_with_adapters_equals_an_uninterrupted_one(tiny: Any, tmp_path: Path, at: int) -> None:
    plan = tiny.plan(PROBE, tune(tiny, blend=(1.0,)))
    whole = execute(plan, vit(), tiny.bundle(), tiny.recipe(save_every=1), tmp_path / "whole")
    step, take = 0, Job.after_step

    def stop(self: Job, *finished: Any) -> None:
        nonlocal step
        step += 1
        self.desk.stop.requested = step == at
        take(self, *finished)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "after_step", stop)
        with pytest.raises(Interrupted):
            execute(plan, vit(), tiny.bundle(), tiny.recipe(save_every=1), tmp_path / "parts")
    resumed = execute(plan, vit(), tiny.bundle(), tiny.recipe(save_every=1), tmp_path / "parts", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_layers_whose_weights_are_read_without_a_call_are_left_alone() -> None:
    backbone = create_backbone("test_vit", pretrained=False, num_classes=3, seed=0)
    block = backbone.model.get_submodule("blocks.5.attn")

    class Reads(torch.nn.Module):
        """As some attention blocks do: the layer's weight, not the layer."""

        def __init__(self, inner: torch.nn.Linear) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.inner.weight, self.inner.bias)

    block.proj = Reads(block.proj)
    names = attach(backbone, rank=1, train_from=4)
    assert "blocks.5.attn.proj.inner" not in names
    assert "blocks.5.attn.qkv" in names


def test_a_network_without_linear_layers_is_told(tiny: Any) -> None:
    with pytest.raises(
        TrainingError, match=r"lora needs linear layers in stages 1 and up. test_resnet has none"
    ):
        attach(tiny.backbone(), rank=2, train_from=1)


def test_without_peft_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "peft":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TrainingError, match=r"pip install 'finetune\[lora\]'"):
        attach(vit(), rank=2, train_from=1)
