"""Which parameter trains at which rate, and what decays."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from finetune.errors import ConfigError, TrainingError
from finetune.training import OPTIMIZERS
from finetune.training.optim import build_optimizer, describe_groups, param_groups, set_lr, summary_lines


def test_every_trained_parameter_is_in_exactly_one_group(tiny: Any) -> None:
    for arch in ("test_resnet", "test_vit"):
        network = tiny.backbone(arch)
        for first in range(network.num_stages + 1):
            network.freeze_below(first)
            groups = param_groups(network, tiny.phase(train_from=first))
            claimed = [name for group in groups for name in group["names"]]
            trained = [name for name, p in network.named_parameters() if p.requires_grad]
            assert sorted(claimed) == sorted(trained)


def test_lr_falls_by_stage_decay_towards_the_input(tiny: Any) -> None:
    network = tiny.backbone()
    phase = tiny.phase(train_from=0, lr=0.8, head_lr=4.0, stage_decay=0.5)
    rates = {g["name"].split(" (")[0]: g["peak"] for g in param_groups(network, phase)}
    assert rates == {
        "stage 0": 0.05,
        "stage 1": 0.1,
        "stage 2": 0.2,
        "stage 3": 0.4,
        "stage 4": 0.8,
        "head": 4.0,
    }


def test_norms_biases_and_position_embeddings_do_not_decay(tiny: Any) -> None:
    network = tiny.backbone("test_vit")
    groups = param_groups(network, tiny.phase(train_from=0, weight_decay=0.1))
    free = {name for g in groups if g["weight_decay"] == 0 for name in g["names"]}
    assert "model.pos_embed" in free
    assert "model.cls_token" in free
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or ".norm" in name:
            assert name in free
        elif parameter.ndim > 1 and "embed" not in name and "token" not in name:
            assert name not in free
    assert {g["weight_decay"] for g in groups} == {0.0, 0.1}


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_optimizer_keeps_the_groups_and_moves_the_weights(tiny: Any, name: str) -> None:
    network = tiny.backbone()
    network.freeze_below(4)
    phase = tiny.phase(train_from=4, optimizer=name, weight_decay=0.1)
    groups = param_groups(network, phase)
    optimizer = build_optimizer(groups, phase)
    assert [g["lr"] for g in optimizer.param_groups] == [g["peak"] for g in groups]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [g["weight_decay"] for g in groups]
    set_lr(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [g["peak"] / 2 for g in groups]
    before = network.head.weight.detach().clone()
    network(torch.randn(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, network.head.weight)


def test_description_names_what_was_claimed(tiny: Any) -> None:
    network = tiny.backbone()
    described = describe_groups(param_groups(network, tiny.phase(train_from=4, lr=0.01, head_lr=0.1)))
    assert described[-1]["name"] == "head"
    assert described[-1]["tensors"] == ["head.bias"]
    assert sum(g["parameters"] for g in described) == sum(
        p.numel() for _, p in [*network.stage_parameters(4), *network.head_parameters()]
    )
    assert (
        summary_lines(described)[-1]
        == "head: 291 parameters, lr 0.1, weight decay 0.0001 (norms and biases 0)"
    )


def test_nothing_to_train_is_refused(tiny: Any) -> None:
    network = tiny.backbone()
    network.requires_grad_(False)
    with pytest.raises(TrainingError, match="trains no parameter: train_from=5"):
        param_groups(network, tiny.phase(train_from=5))


def test_a_parameter_claimed_twice_is_refused(tiny: Any) -> None:
    network = tiny.backbone()
    network.head.weight = network.stage_parameters(4)[0][1]
    with pytest.raises(TrainingError, match="is already claimed by stage 4"):
        param_groups(network, tiny.phase(train_from=4))


def test_unknown_optimizer_names_the_nearest(tiny: Any) -> None:
    phase = tiny.phase(optimizer="adagradd")
    with pytest.raises(ConfigError, match='Did you mean "adagrad"'):
        build_optimizer([], phase)
