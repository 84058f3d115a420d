"""Group norms in the place of batch norms: the formula, the network around them, and a run that trains with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from finetune.api import run
from finetune.errors import ConfigError, ExportError, ZooError
from finetune.export.safetensors import SafetensorsExport
from finetune.features.cache import network_key
from finetune.zoo.create import create_backbone
from finetune.zoo.group_norm import groups_for, swap_batch_norms
from finetune.zoo.model_folder import load_backbone, save_backbone


def network(arch: str = "test_resnet", size: int = 64) -> Any:
    return create_backbone(arch, pretrained=False, num_classes=3, image_size=size, seed=1).eval()


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_each_image_is_normalised_alone_and_scale_and_shift_are_kept() -> None:
    norm = nn.BatchNorm2d(64).eval()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
        norm.running_mean.normal_()  # type: ignore[union-attr]
    model = nn.Sequential(nn.Conv2d(3, 64, 3), norm, nn.ReLU())
    weight, bias = norm.weight, norm.bias
    x = torch.randn(4, 3, 9, 9)
    assert swap_batch_norms(model) == 1
    wanted = F.relu(F.group_norm(model[0](x), 32, weight, bias, norm.eps))
    torch.testing.assert_close(model(x), wanted)
    torch.testing.assert_close(model(x)[:1], model(x[:1]))
    assert model[1].weight is weight
    assert not model[1].training


@pytest.mark.parametrize(("channels", "groups"), [(32, 32), (40, 8), (24, 8), (3, 1), (1280, 32)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    assert groups_for(channels) == groups


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "shufflenet_v2_x0_5"])
def test_the_network_around_them_stays_as_it_was(arch: str, tmp_path: Path) -> None:
    made, plain = network(arch), network(arch)
    acts = sum(type(m).__name__ == "BatchNormAct2d" for m in plain.modules())
    assert made.use_group_norms() > 0
    assert made.use_group_norms() == 0  # once is enough
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in made.modules())
    assert sum(type(m).__name__ == "GroupNormAct" for m in made.modules()) == acts
    for stage in range(made.num_stages):
        assert [n for n, _ in made.stage_parameters(stage)] == [n for n, _ in plain.stage_parameters(stage)]
    assert network_key(made) != network_key(plain)
    with torch.no_grad():
        answers = made(IMAGES)
        assert not torch.allclose(answers, plain(IMAGES))
        for stage in range(1, made.num_stages):
            if made.can_split(stage):
                torch.testing.assert_close(made.suffix(made.prefix(IMAGES, stage), stage), answers)
        assert torch.equal(load_backbone(save_backbone(made, tmp_path))(IMAGES), answers)
        torch.testing.assert_close(made.fold()(IMAGES), answers, rtol=1e-3, atol=1e-3)


def test_a_network_without_batch_norms_is_refused() -> None:
    with pytest.raises(ZooError, match=r"norm_layers must be own for test_vit.*no batch norms"):
        network("test_vit", 160).use_group_norms()


def test_what_plain_weights_have_no_place_for_is_said(tmp_path: Path) -> None:
    made = network()
    made.use_group_norms()
    assert not made.is_plain
    with pytest.raises(ExportError, match=r"norms of a safetensors export must be those that timm builds"):
        SafetensorsExport().write(made, ("a", "b", "c"), tmp_path)
    save_backbone(made, tmp_path / "model")
    with pytest.raises(
        ZooError, match=r"model' must be a network as its library builds it. Got one with group norms"
    ):
        create_backbone(str(tmp_path / "model"))


@pytest.mark.parametrize("strategy", ["full", "scratch"])
def test_a_run_trains_with_batches_of_two(picture_folder: Path, tmp_path: Path, strategy: str) -> None:
    done = run(
        {
            "data": {"path": str(picture_folder), "image_size": 32},
            "strategy": strategy,
            "norm_layers": "group",
            "train": {"epochs": 1, "batch_size": 2, "precision": "fp32", "channels_last": False, "avoid": []},
            "out": str(tmp_path / "r"),
        },
        figures=False,
    )
    assert json.loads((done.path / "model" / "config.json").read_text())["finetune"]["norm_layers"] == "group"
    kept = load_backbone(done.path / "model")
    assert any(isinstance(m, nn.GroupNorm) for m in kept.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in kept.modules())


def test_a_typo_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="norm_layers"):
        run({"data": {"path": str(tmp_path)}, "norm_layers": "layer"})
