"""Every optimizer against its formula, step by step; which keys suit which; Adam first, then SGD."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune import solvers
from finetune.errors import ConfigError, TrainingError
from finetune.recipe import Recipe
from finetune.strategy.schedule import chosen_optimizer
from finetune.training.execute import execute
from finetune.training.metrics_log import read_metrics
from finetune.training.optim import build_optimizer, param_groups, set_lr
from finetune.training.optimizers import AdamThenSGD

LR, WD, STEPS = 0.03, 0.2, 6
START = torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=torch.float64)
GRADIENTS = torch.randn(STEPS, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 0.4
Rule = Callable[[Tensor, Tensor, dict[str, Tensor], int], Tensor]
"""(weights, gradient, state, step from 1) -> what is subtracted from the weights, over LR."""


def walk(rule: Rule, decoupled: bool) -> Tensor:
    """The weights after all steps of a rule."""
    w, state = START.clone(), dict[str, Tensor]()
    for t, gradient in enumerate(GRADIENTS, 1):
        g = gradient.clone() if decoupled else gradient + WD * w
        w = w * (1 - LR * WD) if decoupled else w
        w = w - LR * rule(w, g, state, t)
    return w


def mean(state: dict[str, Tensor], name: str, value: Tensor, beta: float) -> Tensor:
    state[name] = beta * state.get(name, torch.zeros_like(value)) + (1 - beta) * value
    return state[name]


def momentum(nesterov: bool) -> Rule:
    def rule(w: Tensor, g: Tensor, s: dict[str, Tensor], t: int) -> Tensor:
        s["v"] = 0.9 * s.get("v", torch.zeros_like(g)) + g
        return g + 0.9 * s["v"] if nesterov else s["v"]

    return rule


def plain(w: Tensor, g: Tensor, s: dict[str, Tensor], t: int) -> Tensor:
    return g


def adagrad(w: Tensor, g: Tensor, s: dict[str, Tensor], t: int) -> Tensor:
    s["sum"] = s.get("sum", torch.zeros_like(g)) + g**2
    return g / (s["sum"].sqrt() + 1e-10)


def rmsprop(w: Tensor, g: Tensor, s: dict[str, Tensor], t: int) -> Tensor:
    return g / (mean(s, "v", g**2, 0.99).sqrt() + 1e-8)


def adam(b1: float = 0.9, b2: float = 0.999, top: bool = False) -> Rule:
    def rule(w: Tensor, g: Tensor, s: dict[str, Tensor], t: int) -> Tensor:
        m, v = mean(s, "m", g, b1), mean(s, "v", g**2, b2)
        if top:
            v = s["top"] = torch.maximum(s.get("top", v), v)
        return m / (1 - b1**t) / ((v / (1 - b2**t)).sqrt() + 1e-8)

    return rule


def adabelief(w: Tensor, g: Tensor, s: dict[str, Tensor], t: int) -> Tensor:
    m = mean(s, "m", g, 0.9)
    v = mean(s, "v", (g - m) ** 2, 0.999)
    return m / (1 - 0.9**t) / (v / (1 - 0.999**t)).sqrt()


def diffgrad(w: Tensor, g: Tensor, s: dict[str, Tensor], t: int) -> Tensor:
    friction = torch.sigmoid((s.get("before", torch.zeros_like(g)) - g).abs())
    s["before"] = g
    return friction * adam()(w, g, s, t)


def lion(w: Tensor, g: Tensor, s: dict[str, Tensor], t: int) -> Tensor:
    m = s.get("m", torch.zeros_like(g))
    s["m"] = 0.99 * m + 0.01 * g
    return torch.sign(0.9 * m + 0.1 * g)


def nadam(w: Tensor, g: Tensor, s: dict[str, Tensor], t: int) -> Tensor:
    """Dozat 2016 with the momentum schedule 0.9 (1 - .5 * .96 ** (t / 250))."""
    now, after = (0.9 * (1 - 0.5 * 0.96 ** (i * 0.004)) for i in (t, t + 1))
    s["product"] = s.get("product", torch.ones(())) * now
    m, v = mean(s, "m", g, 0.9), mean(s, "v", g**2, 0.999)
    ahead = (1 - now) / (1 - s["product"]) * g + after / (1 - s["product"] * after) * m
    return ahead / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


def radam(w: Tensor, g: Tensor, s: dict[str, Tensor], t: int) -> Tensor:
    m, v = mean(s, "m", g, 0.9) / (1 - 0.9**t), mean(s, "v", g**2, 0.999)
    longest = 2 / (1 - 0.999) - 1
    length = longest - 2 * t * 0.999**t / (1 - 0.999**t)
    if length <= 5:
        return m
    r = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    return m * r * math.sqrt(1 - 0.999**t) / (v.sqrt() + 1e-8)


CASES: list[tuple[str, dict[str, Any], Rule, bool]] = [
    ("sgd", {}, momentum(True), False),
    ("sgd", {"nesterov": False}, momentum(False), False),
    ("sgd", {"momentum": 0.0}, plain, False),
    ("sgd", {"momentum": 0.0, "decoupled": True}, plain, True),
    ("adagrad", {}, adagrad, False),
    ("rmsprop", {}, rmsprop, False),
    ("adam", {}, adam(), False),
    ("adam", {"betas": (0.5, 0.9)}, adam(0.5, 0.9), False),
    ("adam", {"decoupled": True}, adam(), True),
    ("adamw", {}, adam(), True),
    ("amsgrad", {}, adam(top=True), True),
    ("amsgrad", {"decoupled": False}, adam(top=True), False),
    ("radam", {}, radam, True),
    ("radam", {"decoupled": False}, radam, False),
    ("nadam", {}, nadam, True),
    ("nadam", {"decoupled": False}, nadam, False),
    ("adabelief", {}, adabelief, True),
    ("adabelief", {"decoupled": False}, adabelief, False),
    ("diffgrad", {}, diffgrad, True),
    ("diffgrad", {"decoupled": False}, diffgrad, False),
    ("lion", {}, lion, True),
    ("adam-then-sgd", {}, adam(), True),  # never told of any progress
    ("muon", {}, momentum(True), False),  # a vector is none of its kernels
]


def made(tiny: Any, name: str, weights: Tensor, **keys: Any) -> torch.optim.Optimizer:
    group = {"name": "head", "names": ["w"], "params": [weights], "lr": LR, "peak": LR, "weight_decay": WD}
    return build_optimizer([group], tiny.phase(optimizer=name, **keys))


@pytest.mark.parametrize(("name", "keys", "rule", "decoupled"), CASES)
def test_steps_are_the_formula(
    tiny: Any, name: str, keys: dict[str, Any], rule: Rule, decoupled: bool
) -> None:
    weights = torch.nn.Parameter(START.clone())
    optimizer = made(tiny, name, weights, **keys)
    for gradient in GRADIENTS:
        weights.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(weights.detach(), walk(rule, decoupled), rtol=1e-6, atol=1e-8)


def test_every_optimizer_has_a_case() -> None:
    assert {name for name, *_ in CASES} == set(solvers.OPTIMIZERS.names())


def test_eps_is_passed_on(tiny: Any) -> None:
    """With an eps far above the gradients Adam's first step is the gradient over eps."""
    weights = torch.nn.Parameter(START.clone())
    weights.grad = GRADIENTS[0].clone()
    made(tiny, "adamw", weights, eps=1e6).step()
    torch.testing.assert_close(weights.detach(), START * (1 - LR * WD) - LR * GRADIENTS[0] / 1e6)


def drive(optimizer: torch.optim.Optimizer, weights: Tensor, first: int, last: int) -> None:
    for step in range(first, last):
        set_lr(optimizer, 1.0, step / STEPS)
        weights.grad = GRADIENTS[step].clone()
        optimizer.step()


def test_adam_then_sgd_is_adamw_then_sgd_at_a_hundred_times_the_rate(tiny: Any) -> None:
    weights, copy = (torch.nn.Parameter(START.clone()) for _ in range(2))
    drive(made(tiny, "adam-then-sgd", weights, switch=0.5, momentum=0.8), weights, 0, STEPS)
    drive(torch.optim.AdamW([{"params": [copy], "peak": LR}], LR, weight_decay=WD), copy, 0, STEPS // 2)
    sgd = torch.optim.SGD(
        [{"params": [copy], "peak": 100 * LR}], LR, momentum=0.8, nesterov=True, weight_decay=WD / 100
    )
    drive(sgd, copy, STEPS // 2, STEPS)
    torch.testing.assert_close(weights.detach(), copy.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_adam_then_sgd_goes_on_from_a_saved_state(tiny: Any, stop: int) -> None:
    whole, part = (torch.nn.Parameter(START.clone()) for _ in range(2))
    drive(made(tiny, "adam-then-sgd", whole), whole, 0, STEPS)
    first = made(tiny, "adam-then-sgd", part)
    drive(first, part, 0, stop)
    again = made(tiny, "adam-then-sgd", part)
    again.load_state_dict(first.state_dict())
    drive(again, part, stop, STEPS)
    assert torch.equal(whole, part)
    assert [group["lr"] for group in again.param_groups] == [LR]
    assert isinstance(again, AdamThenSGD)


@pytest.mark.parametrize("name", ["sgd", "adam-then-sgd", "muon", "adabelief", "diffgrad"])
def test_a_closure_is_called_with_gradients_and_its_loss_returned(tiny: Any, name: str) -> None:
    weights = torch.nn.Parameter(START.clone())
    optimizer = made(tiny, name, weights)
    if name == "adam-then-sgd":
        set_lr(optimizer, 1.0, 0.9)  # its second part

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = weights.square().sum()
        loss.backward()
        return loss

    loss: Any = optimizer.step(closure)
    assert float(loss.detach()) == pytest.approx(float(START.square().sum()))
    assert not torch.equal(weights.detach(), START)


def test_muon_takes_hidden_kernels_at_a_rate_of_their_own(tiny: Any) -> None:
    network = tiny.backbone()
    phase = tiny.phase(train_from=0, optimizer="muon", lr=0.1, stage_decay=1.0, weight_decay=1e-3)
    groups = param_groups(network, phase)
    kernels = {n: g for g in groups for n in g["names"] if g.get("orthogonal")}
    assert "model.layer1.0.conv1.weight" in kernels
    assert not any("head" in n or "bias" in n or n == "model.conv1.weight" for n in kernels)
    assert {g["peak"] for g in kernels.values()} == {0.1 * 0.4}
    # Decoupled, a step takes 0.04 * wd; SGD's L2 with momentum .9 takes 0.1 * 1e-3 * 10.
    assert {round(g["weight_decay"] * g["peak"], 9) for g in kernels.values()} == {0.001}
    claimed = [n for g in groups for n in g["names"]]
    assert sorted(claimed) == sorted(n for n, p in network.named_parameters() if p.requires_grad)


def test_rates_of_families_are_translated() -> None:
    assert [solvers.translated_lr(0.5, "sgd", n) for n in ("sgd", "muon", "adagrad", "nadam", "lion")] == [
        0.5, 0.5, 0.05, 0.005, 0.0005,
    ]  # fmt: skip
    assert solvers.translated_lr(1e-3, "adamw", "adam-then-sgd") == 1e-3


def test_keys_that_do_not_suit_the_optimizer_are_all_named() -> None:
    keys = {"optimizer": "rmsprop", "betas": [0.9, 0.99], "decoupled": True}
    with pytest.raises(ConfigError) as caught:
        Recipe.from_mapping({"train": keys})
    assert "train.betas: must be left out: rmsprop has no betas" in str(caught.value)
    assert "train.decoupled: must be left out: weight decay of rmsprop is as L2 in the gradient only" in str(
        caught.value
    )
    with pytest.raises(ConfigError, match="train.eps: must be left out: lion has no eps"):
        Recipe.from_mapping({"train": {"optimizer": "lion", "eps": 1e-6}})
    silent = Recipe.from_mapping({"train": {"betas": [0.9, 0.99]}}).train
    assert chosen_optimizer(silent, "adamw") == "adamw"
    with pytest.raises(ConfigError, match=r"train\.betas must be left out: sgd has no betas\. Got"):
        chosen_optimizer(silent, "sgd")
    with pytest.raises(ConfigError, match=r'train\.optimizer: must be one of sgd, .*Did you mean "adagrad"'):
        Recipe.from_mapping({"train": {"optimizer": "adagradd"}})


def test_a_missing_package_names_the_extra(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = solvers.importlib.util.find_spec
    monkeypatch.setattr(
        solvers.importlib.util, "find_spec", lambda name: None if name == "pytorch_optimizer" else find(name)
    )
    words = r'The optimizer diffgrad needs pytorch-optimizer\. Run: pip install "finetune\[optimizers\]"'
    with pytest.raises(ConfigError, match=words):
        chosen_optimizer(Recipe.from_mapping({"train": {"optimizer": "diffgrad"}}).train, "sgd")
    with pytest.raises(TrainingError, match=words):
        made(tiny, "diffgrad", torch.nn.Parameter(START.clone()))


SCHEDULE_ARGS: dict[str, dict[str, Any]] = {
    "step": {"milestones": [0.5, 0.75], "gamma": 0.3}, "sgdr": {"cycles": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", solvers.OPTIMIZERS.names())
def test_they_train(tiny: Any, tmp_path: Path, name: str) -> None:
    lr = solvers.translated_lr(0.1, "sgd", name)
    # The first steps of radam are short, until it knows the variance of its second moment.
    they_train(tiny, tmp_path, optimizer=name, lr=lr, head_lr=lr, epochs=18 if name == "radam" else 6)


@pytest.mark.parametrize("name", solvers.SCHEDULES.names())
def test_schedules_train(tiny: Any, tmp_path: Path, name: str) -> None:
    they_train(
        tiny,
        tmp_path,
        schedule=name,
        schedule_args=SCHEDULE_ARGS.get(name, {}),
        lr=0.1,
        head_lr=0.1,
        epochs=6,
    )


def they_train(tiny: Any, tmp_path: Path, **keys: Any) -> None:
    phase = tiny.phase(train_from=0, ema=None, augment="none", label_smoothing=0.0, **keys)
    execute(tiny.plan(phase), tiny.backbone(), tiny.bundle(33, 0), tiny.recipe(), tmp_path)
    losses = [row["loss"] for row in read_metrics(tmp_path) if row["kind"] == "epoch"]
    assert losses[-1] < 0.9 * losses[0]
