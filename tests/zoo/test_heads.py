"""Heads that no plain model has: what they compute, that they are kept, and that export says why it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from finetune.errors import ExportError, ZooError
from finetune.evaluation.predict import head_probabilities
from finetune.export.safetensors import SafetensorsExport
from finetune.features.cache import network_key
from finetune.zoo.create import create_backbone
from finetune.zoo.heads import FractionalPool
from finetune.zoo.model_folder import load_backbone, save_backbone


def network(arch: str = "test_resnet", size: int = 160) -> Any:
    return create_backbone(arch, pretrained=False, num_classes=3, image_size=size, seed=1).eval()


IMAGES = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))


def test_bottleneck_is_its_formula_and_survives_saving(tmp_path: Path) -> None:
    made = network()
    state = torch.get_rng_state()
    made.set_bottleneck(8, 3, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    x = made.embed(IMAGES)
    reduce, classify = made.head.reduce, made.head.classify
    wanted = F.relu(x @ reduce.weight.T + reduce.bias) @ classify.weight.T + classify.bias
    with torch.no_grad():
        torch.testing.assert_close(made(IMAGES), wanted)
        torch.testing.assert_close(
            torch.from_numpy(head_probabilities(made, x.detach().numpy())), wanted.softmax(1)
        )
    assert not made.is_plain
    again = load_backbone(save_backbone(made, tmp_path))
    with torch.no_grad():
        assert torch.equal(again(IMAGES), made(IMAGES))


def test_bottlenecks_of_a_seed_are_alike() -> None:
    first, second = network(), network()
    first.set_bottleneck(4, 3, seed=7)
    second.set_bottleneck(4, 3, seed=7)
    assert torch.equal(first.head.classify.weight, second.head.classify.weight)
    assert [name for name, _ in first.head_parameters()] == [
        "head.reduce.weight", "head.reduce.bias", "head.classify.weight", "head.classify.bias"
    ]  # fmt: skip


def test_fractional_pool_is_torch_s_with_fixed_regions_in_eval_mode() -> None:
    pool = FractionalPool(nn.AdaptiveAvgPool2d(1))
    x = torch.randn(2, 5, 7, 7)
    wanted = F.fractional_max_pool2d(x, 2, output_size=(4, 4), _random_samples=torch.full((2, 5, 2), 0.5))
    torch.testing.assert_close(pool.eval()(x), wanted.mean((2, 3), keepdim=True))
    assert torch.equal(pool(x), pool(x))
    pool.train()
    assert not torch.equal(pool(x), pool(x))
    assert pool.reduced(x).shape == (2, 5, 4, 4)
    small = torch.randn(2, 5, 1, 3)
    assert torch.equal(pool.reduced(small), small)


def test_fractional_pooling_survives_saving_and_has_features_of_its_own(tmp_path: Path) -> None:
    made, plain = network(), network()
    names = list(made.state_dict())
    made.pool_fractionally()
    made.pool_fractionally()  # once is enough
    assert list(made.state_dict()) == names
    assert network_key(made) != network_key(plain)
    with torch.no_grad():
        answers = made(IMAGES)
        assert not torch.allclose(answers, plain(IMAGES))
        torch.testing.assert_close(made.suffix(made.prefix(IMAGES, 3), 3), answers)
        assert torch.equal(load_backbone(save_backbone(made, tmp_path))(IMAGES), answers)
        torch.testing.assert_close(made.fold()(IMAGES), answers, rtol=1e-3, atol=1e-3)


def test_a_network_that_pools_no_map_is_refused() -> None:
    wanted = r"train\.head must be linear or bottleneck for test_vit\. Got 'fractional-pool' instead\. It needs a conv"
    with pytest.raises(ZooError, match=wanted):
        network("test_vit").pool_fractionally()


@pytest.mark.parametrize("kind", ["bottleneck", "fractional-pool"])
def test_export_says_why_it_cannot(kind: str, tmp_path: Path) -> None:
    made = network()
    made.set_bottleneck(4, 3) if kind == "bottleneck" else made.pool_fractionally()
    with pytest.raises(
        ExportError, match=f"one linear layer, as timm has. Got train.head={kind} instead. Use the run"
    ):
        SafetensorsExport().write(made, ("a", "b", "c"), tmp_path)
