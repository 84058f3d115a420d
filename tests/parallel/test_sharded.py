"""What sharded training is not combined with, and how a network is divided; trainings are in test_united.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from finetune.errors import ConfigError
from finetune.recipe import Recipe
from finetune.strategy.context import Context
from finetune.strategy.plan import GradientPhase, Plan
from finetune.strategy.schedule import gradient_phase
from finetune.training.sharded import is_sharded, put, refuse_with_shard, sharding, stage_modules, whole
from finetune.zoo.create import create_backbone


def plan(**keys: Any) -> Plan:
    return Plan(strategy="test", phases=(GradientPhase(train_from=0, epochs=1, lr=0.1, head_lr=0.1, **keys),))


def recipe(**keys: Any) -> Recipe:
    return Recipe.from_mapping({"train": {"shard": True, **keys.pop("train", {})}, **keys})


def test_nothing_is_divided_by_a_single_process() -> None:
    assert not sharding(recipe())


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"ema": 0.9}, r"train\.ema must be null with train\.shard\. Got 0\.9 instead\."),
        ({"swa": 0.5}, r"train\.swa must be null with train\.shard"),
        ({"snapshots": 2}, r"train\.snapshots must be null with train\.shard"),
        ({"l1": 1e-4}, r"train\.l1 must be 0 with train\.shard"),
        ({"l2_sp": 1e-4}, r"train\.l2_sp must be 0 with train\.shard"),
        ({"find_lr": True}, r"train\.lr must be a number with train\.shard\. Got 'auto' instead"),
        (
            {"micro_batch": "auto"},
            r"train\.batch_size must be a number with train\.shard\. Got 'auto' instead",
        ),
        ({"trains": "lora"}, r"strategy must be another one with train\.shard\. Got 'lora' instead"),
        (
            {"optimizer": "lion"},
            r"train\.optimizer must be one of sgd, .* with train\.shard\. Got 'lion' instead",
        ),
        ({"decoupled": True}, r"train\.decoupled must be null or false with sgd and with train\.shard"),
    ],
)
def test_what_a_phase_may_not_ask_for(phase: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_with_shard(plan(**phase), recipe())


def test_all_problems_at_once() -> None:
    asked = recipe(train={"precision": "fp16", "channels_last": True}, budget=60)
    with pytest.raises(
        ConfigError, match=r"^4 problems in the recipe: train\.precision must be auto, fp32 or bf16 "
    ):
        refuse_with_shard(plan(ema=0.9), asked)
    refuse_with_shard(plan(), recipe())


def test_the_default_average_gives_way() -> None:
    """A long training has an average of its weights, but not a sharded one."""
    card = create_backbone("test_resnet", pretrained=False).card
    phases = [
        gradient_phase(Context(asked, (1000,) * 4, card, 5, lambda: None), name="x", train_from=0)
        for asked in (Recipe(), recipe())
    ]
    assert [phase.ema is None for phase in phases] == [False, True]


@pytest.mark.parametrize(
    ("arch", "blocks"),
    [
        ("test_resnet", {"layer1", "layer2", "layer3", "layer4"}),
        ("test_vit", {f"blocks.{i}" for i in range(6)}),
    ],
)
def test_a_network_is_divided_at_its_stages(arch: str, blocks: set[str]) -> None:
    network = create_backbone(
        arch, pretrained=False, num_classes=3, image_size=160 if arch == "test_vit" else 32
    )
    network.train()
    names = stage_modules(network)
    assert blocks <= set(names)
    assert network.training
    for name in names:
        parameters = [
            f"{name}.{n}".rpartition(".")[0] for n, _ in network.model.get_submodule(name).named_parameters()
        ]
        assert len({network.stage_of(place) for place in parameters}) == 1
    assert not any(a != b and a.startswith(f"{b}.") for a in names for b in names)


def test_whole_tensors_stay_the_same_objects() -> None:
    tensor = torch.arange(3.0)
    tree = whole({"a": [tensor, 1], "b": (tensor,)})
    assert tree["a"][0] is tensor
    assert tree["b"] == (tensor,)
    assert not is_sharded([tensor])
    put(tensor, torch.ones(3))
    assert tensor.tolist() == [1, 1, 1]
