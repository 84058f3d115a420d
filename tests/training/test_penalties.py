"""L1, elastic net and L2-SP against autograd of their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from finetune.errors import ConfigError, TrainingError
from finetune.training.optim import build_optimizer, decays, param_groups
from finetune.training.penalties import Penalty


def network(tiny: Any) -> Any:
    made = tiny.backbone()
    made.freeze_below(2)
    return made


def moved(made: Any) -> dict[str, torch.Tensor]:
    """The weights before a random move of all of them."""
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return before


@pytest.mark.parametrize("scale", [1.0, 8.0])
@pytest.mark.parametrize(("l1", "l2_sp"), [(0.01, 0.0), (0.0, 0.1), (0.01, 0.1)])
def test_gradients_are_autograd_s_of_the_formula(tiny: Any, l1: float, l2_sp: float, scale: float) -> None:
    made = network(tiny)
    before = moved(made)
    body = {name: t for name, t in before.items() if name.startswith("model.")}
    phase = tiny.phase(train_from=2, l1=l1, l2_sp=l2_sp)
    weights = {n: p for n, p in made.named_parameters() if p.requires_grad and decays(n, p)}
    value = l1 * sum(p.abs().sum() for p in weights.values())
    value = value + l2_sp / 2 * sum((p - body[n]).square().sum() for n, p in weights.items() if n in body)
    wanted = dict(zip(weights, torch.autograd.grad(scale * value, list(weights.values())), strict=True))
    penalty = Penalty(param_groups(made, phase), phase, body)
    assert penalty
    assert penalty.value() == pytest.approx(float(value.detach()), rel=1e-5)
    start = next(iter(weights))
    weights[start].grad = torch.ones_like(weights[start])  # what the loss has put there stays
    penalty.add_gradients(scale)
    for name, p in made.named_parameters():
        if name not in weights or (not l1 and name not in body):
            assert p.grad is None, name  # norms, biases, what is frozen, and the head where only L2-SP acts
            continue
        torch.testing.assert_close(p.grad, wanted[name] + (1.0 if name == start else 0.0), msg=name)


def test_none_by_default(tiny: Any) -> None:
    made = network(tiny)
    assert not Penalty(param_groups(made, tiny.phase()), tiny.phase(), {})


def test_elastic_net_is_l1_and_weight_decay(tiny: Any) -> None:
    """One SGD step on a zero loss: w - lr (l1 sign(w) + decay w)."""
    made = network(tiny)
    phase = tiny.phase(
        train_from=2, lr=0.1, head_lr=0.1, stage_decay=1.0, momentum=0.0, l1=0.02, weight_decay=0.3
    )
    groups = param_groups(made, phase)
    optimizer = build_optimizer(groups, phase)
    before = {n: p.detach().clone() for n, p in made.named_parameters()}
    for p in made.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    Penalty(groups, phase, {}).add_gradients()
    optimizer.step()
    for n, p in made.named_parameters():
        w = before[n]
        step = 0.1 * (0.02 * w.sign() + 0.3 * w) if p.requires_grad and decays(n, p) else torch.zeros_like(w)
        torch.testing.assert_close(p.detach(), w - step, msg=n)


def test_l2_sp_takes_the_place_of_weight_decay_in_the_body_only(tiny: Any) -> None:
    made = network(tiny)
    groups = param_groups(made, tiny.phase(train_from=2, l2_sp=0.1, weight_decay=0.05))
    assert {g["weight_decay"] for g in groups if g["name"] != "head"} == {0.0}
    assert [g["weight_decay"] for g in groups if g["name"] == "head"] == [0.05, 0.0]


def test_a_strong_l2_sp_keeps_the_body_near_its_start_and_lets_the_head_go(tiny: Any, tmp_path: Any) -> None:
    from finetune.training.execute import execute

    far = []
    for number, strength in enumerate([0.0, 10.0]):
        made = tiny.backbone()
        before = {n: p.detach().clone() for n, p in made.named_parameters()}
        phase = tiny.phase(train_from=2, l2_sp=strength, weight_decay=0.0, clip_grad=None, ema=None)
        plan = tiny.plan(phase).model_copy(update={"init": "pretrained"})
        execute(plan, made, tiny.bundle(), tiny.recipe(), tmp_path / str(number))
        far.append(sum(float((p.detach() - before[n]).square().sum()) for n, p in made.named_parameters()
                       if n.startswith("model.") and decays(n, p)))  # fmt: skip
    assert 0 < far[1] < 0.7 * far[0]


def test_messages(tiny: Any, tmp_path: Any) -> None:
    from finetune.training.execute import execute

    made = tiny.backbone()
    made.freeze_below(made.num_stages)
    phase = tiny.phase(train_from=made.num_stages, l2_sp=0.1)
    with pytest.raises(
        TrainingError, match=r"train\.l2_sp must have pretrained weights that phase 'finetune' trains"
    ):
        Penalty(param_groups(made, phase), phase, {"model.conv1.weight": torch.zeros(1)})
    wrong = tiny.phase(l2_sp=0.1, trains="lora", class_weights={"class 9": 2.0})
    with pytest.raises(ConfigError) as caught:
        execute(tiny.plan(wrong), made, tiny.bundle(), tiny.recipe(), tmp_path)
    for part in (
        "3 problems in the plan:",
        "train.class_weights must be a mapping of classes in the data. Got class 9 instead. Did you mean",
        "train.l2_sp must be 0 where training starts from random weights. Got 0.1 instead.",
        "train.l2_sp must be 0 where only adapters train. Got 0.1 instead.",
    ):
        assert part in str(caught.value)
    twice = tiny.phase(sampling="balanced", class_weights="sqrt")
    with pytest.raises(
        ConfigError, match=r"train\.class_weights must be none where train\.sampling is balanced"
    ):
        execute(tiny.plan(twice), made, tiny.bundle(), tiny.recipe(), tmp_path)
