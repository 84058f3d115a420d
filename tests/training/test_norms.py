"""Batch norms re-estimated on the target: the figures, and when they are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.strategy.plan import ProbePhase
from finetune.training.execute import execute
from finetune.training.norms import BATCH, norms_of, reestimate, restore, statistics
from finetune.zoo.create import create_backbone

PROBE = ProbePhase(candidates=((4,),), folds=2)
CPU = torch.device("cpu")


def inputs_of(backbone: Any, layer: torch.nn.Module, images: Any, order: np.ndarray) -> torch.Tensor:
    """What enters a layer, (N, C, H, W), for the images in this order, in one batch."""
    from finetune.data.batches import eval_tensor

    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    with torch.no_grad():
        backbone.embed(
            backbone.preprocessing.normalise(eval_tensor(images.subset(order), backbone.preprocessing))
        )
    handle.remove()
    return seen[0]


def test_statistics_are_those_of_the_images(tiny: Any) -> None:
    backbone, images = tiny.backbone().eval(), tiny.bundle().train  # 33 images: one batch
    assert reestimate(backbone, images, CPU, threads=1)
    first = norms_of(backbone)[0]
    x = inputs_of(backbone, first, images, np.arange(len(images)))
    torch.testing.assert_close(first.running_mean, x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.running_var, x.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert not first.training
    assert first.momentum == 0.1


def test_several_batches_are_averaged_and_the_rest_is_left_out(tiny: Any) -> None:
    backbone, images = tiny.backbone().eval(), tiny.Patches(2 * BATCH + 5)
    reestimate(backbone, images, CPU, threads=1, seed=3)
    order = np.random.default_rng(3).permutation(len(images))[: 2 * BATCH]
    first = norms_of(backbone)[0]
    parts = [inputs_of(backbone, first, images, chunk) for chunk in np.split(order, 2)]
    expected = torch.stack([x.var((0, 2, 3)) for x in parts]).mean(0)
    torch.testing.assert_close(first.running_var, expected, rtol=1e-4, atol=1e-5)


def test_restore_is_exact_and_networks_without_norms_stay(tiny: Any) -> None:
    backbone = tiny.backbone().eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    saved = statistics(backbone)
    reestimate(backbone, tiny.bundle().train, CPU, threads=1)
    assert any(not torch.equal(v, before[n]) for n, v in backbone.state_dict().items())
    restore(backbone, saved)
    assert all(torch.equal(v, before[n]) for n, v in backbone.state_dict().items())
    assert not reestimate(backbone, tiny.Patches(1), CPU, threads=1)
    vit = create_backbone("test_vit", pretrained=False, num_classes=3, seed=0)
    assert not reestimate(vit, tiny.bundle().train, CPU, threads=1)


@pytest.mark.parametrize("broken", [True, False])
def test_the_better_statistics_are_kept(tiny: Any, tmp_path: Path, broken: bool) -> None:
    """Statistics that do not fit the images at all lose; the images' own ones, slightly shaken, need not."""
    backbone = tiny.backbone().eval()
    reestimate(backbone, tiny.bundle().train, CPU, threads=1)
    if broken:
        for layer in norms_of(backbone):
            layer.running_mean += 1.5 * layer.running_var.sqrt()  # few units still fire
    before = statistics(backbone)
    phase = PROBE.model_copy(update={"norms": "try"})
    trained = execute(tiny.plan(phase), backbone, tiny.bundle(), tiny.recipe(), tmp_path)
    facts = json.loads((tmp_path / "training.json").read_text())["phases"]["0"]["norms"]
    assert facts["chosen"] == min(facts["log_loss"], key=facts["log_loss"].get)
    unchanged = all(
        torch.equal(a[k], b[k]) for a, b in zip(before, statistics(trained), strict=True) for k in a
    )
    assert unchanged is (facts["chosen"] == "source")
    if broken:
        assert facts["chosen"] == "target"


def test_target_statistics_can_be_asked_for(tiny: Any, tmp_path: Path) -> None:
    wanted = tiny.backbone().eval()
    reestimate(wanted, tiny.bundle().train, CPU, threads=1, seed=0)
    phase = PROBE.model_copy(update={"norms": "target"})
    trained = execute(tiny.plan(phase), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path)
    for a, b in zip(statistics(wanted), statistics(trained), strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_with_nothing_to_hold_out_the_pretrained_statistics_stay(tiny: Any, tmp_path: Path) -> None:
    bundle = tiny.DataBundle(tiny.Patches(3), tiny.Patches(3, 2), tiny.Patches(3, 3))  # one image a class
    before = statistics(tiny.backbone())
    phase = PROBE.model_copy(update={"norms": "try"})
    trained = execute(tiny.plan(phase), tiny.backbone(), bundle, tiny.recipe(), tmp_path)
    text = (tmp_path / "training.json").read_text()
    assert "Infinity" not in text
    assert json.loads(text)["phases"]["0"]["norms"]["chosen"] == "source"
    for a, b in zip(before, statistics(trained), strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)
