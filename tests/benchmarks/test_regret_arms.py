"""The arms are the plans that they claim to be: our strategies, their rates, and the published schedules."""

from __future__ import annotations

import itertools
import math

import pytest

from benchmarks.regret.arms import ARMS, GRID, refitted, scaled, trains_again
from benchmarks.regret.published import bit, fastai, hyper_rule
from benchmarks.regret.validation import held_out
from finetune.recipe import Recipe
from finetune.strategy.context import Context
from finetune.strategy.measure import Evidence
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.training.optim import param_groups
from finetune.training.plan_file import read_plan
from finetune.zoo.card import ModelCard
from finetune.zoo.create import create_backbone


def context(per_class: int = 50, classes: int = 4, card: ModelCard | None = None, stages: int = 5) -> Context:
    def look() -> Evidence:
        raise AssertionError("an arm measures nothing")

    held = max(1, per_class // 6)
    card = card or ModelCard(name="net", arch="resnet10t")
    return Context(Recipe(), (per_class,) * classes, card, stages, look, n_val=held * classes)


def tuned(plan: Plan) -> list[GradientPhase]:
    return [p for p in plan.phases if isinstance(p, GradientPhase)]


@pytest.mark.parametrize("name", list(ARMS))
@pytest.mark.parametrize("per_class", [1, 20, 2000])
def test_every_arm_is_a_valid_plan_at_every_rate(name: str, per_class: int) -> None:
    plan = ARMS[name].make(context(per_class))
    assert bool(tuned(plan)) == ARMS[name].trains
    for rate in ARMS[name].rates:
        made = scaled(plan, rate)
        again, _ = read_plan(made, 5, "net")  # every rule about plans, through YAML
        assert again == made
        for before, after in zip(tuned(plan), tuned(made), strict=True):
            assert after.lr == pytest.approx(before.lr * GRID.get(rate, 1.0))
            assert after.head_lr == pytest.approx(before.head_lr * GRID.get(rate, 1.0))


def test_what_trains() -> None:
    starts = {name: tuned(ARMS[name].make(context()))[0].train_from for name in
              ("norm-bias", "partial", "lp-ft", "full", "plain-full", "scratch")}  # fmt: skip
    assert starts == {"norm-bias": 0, "partial": 4, "lp-ft": 1, "full": 0, "plain-full": 0, "scratch": 0}
    plain, full = ARMS["plain-full"].make(context()), ARMS["full"].make(context())
    assert isinstance(full.phases[0], ProbePhase)
    assert all(isinstance(p, GradientPhase) for p in plain.phases)
    one, other = tuned(plain)[0], tuned(full)[0]
    assert (one.lr, one.epochs, one.augment, one.batch_norm, one.keep) == (
        other.lr, other.epochs, other.augment, other.batch_norm, other.keep)  # fmt: skip


def test_the_net_is_taken_away_and_nothing_else() -> None:
    netted, bare = (ARMS[name].make(context()) for name in ("lp-ft", "lp-ft, no net"))
    assert any(p.blend for p in tuned(netted))
    assert not any(p.blend for p in tuned(bare))
    assert [p.model_copy(update={"blend": ()}) for p in tuned(netted)] == tuned(bare)


def test_a_refit_holds_nothing_out() -> None:
    plan = ARMS["plain-full"].make(context())
    assert not trains_again(plan)
    again = refitted(plan)
    assert trains_again(again)
    assert {(p.fit_on, p.keep, p.blend) for p in tuned(again)} == {("train+val", "last", ())}
    assert trains_again(ARMS["lp-ft"].make(context()))  # few images: the library's own arms do it themselves
    read_plan(again, 5, "net")


def test_hyper_rule_is_the_published_one() -> None:
    small, medium, large = (hyper_rule(n, 300) for n in (19_999, 20_000, 500_000))
    assert [(r.steps, r.warmup, r.decays, r.mixup) for r in (small, medium, large)] == [
        (500, 100, (200, 300, 400), 0.0),
        (10_000, 500, (3000, 6000, 9000), 0.1),
        (20_000, 500, (6000, 12_000, 18_000), 0.1),
    ]
    assert [(hyper_rule(10, side).resize, hyper_rule(10, side).crop) for side in (95, 96)] == [
        (160, 128), (448, 384)]  # fmt: skip
    assert (small.lr, small.batch) == (0.003, 512)


@pytest.mark.parametrize("n", [40, 600, 5000, 25_000])
def test_bit_takes_the_steps_of_its_rule(n: int) -> None:
    phases = tuned(bit(context(n // 4)))
    rule = hyper_rule(n, 224)
    steps = [p.epochs * math.ceil(n / (p.batch_size * p.accumulate)) for p in phases]
    bounds = [*rule.decays, rule.steps]
    wanted = [b - a for a, b in zip([0, *rule.decays], bounds, strict=True)]
    for made, asked in zip(steps, wanted, strict=True):
        assert made == pytest.approx(asked, rel=0.26 if n > 1000 else 0.01)
    assert [p.lr for p in phases] == pytest.approx([3e-3, 3e-4, 3e-5, 3e-6])
    assert all(p.lr == p.head_lr and p.train_from == 0 and p.weight_decay == 0 for p in phases)
    assert phases[0].warmup == pytest.approx(rule.warmup / rule.decays[0])
    assert {p.schedule for p in phases} == {"constant"}
    assert {p.batch_size * p.accumulate for p in phases if n >= 64} <= {512}


def test_fastai_rates_fall_to_a_hundredth() -> None:
    backbone = create_backbone("test_resnet", pretrained=False, num_classes=4)
    plan = fastai(context(stages=backbone.num_stages))
    frozen, unfrozen = tuned(plan)
    assert (frozen.train_from, frozen.epochs, frozen.head_lr) == (backbone.num_stages, 1, 2e-3)
    peaks = [g["peak"] for g in param_groups(backbone, unfrozen)]
    assert peaks[-1] == 1e-3
    assert min(peaks) == pytest.approx(1e-3 / 100)
    distinct = sorted({round(p, 12) for p in peaks})
    steps = [b / a for a, b in itertools.pairwise(distinct)]
    assert steps == pytest.approx([100 ** (1 / backbone.num_stages)] * len(steps))
    assert (unfrozen.optimizer, unfrozen.weight_decay, unfrozen.warmup) == ("adamw", 0.01, 0.3)


def test_norms_that_must_not_move_do_not() -> None:
    card = ModelCard(name="net", arch="resnet10t", freeze_norms=True)
    for make in (bit, fastai):
        assert {p.batch_norm for p in tuned(make(context(card=card)))} == {"frozen"}


def test_what_validation_saw() -> None:
    tune = GradientPhase(train_from=1, epochs=1, lr=0.1, head_lr=0.1)
    head = ProbePhase(candidates=((4,),))
    again = tune.model_copy(update={"fit_on": "train+val"})
    plan = Plan(strategy="x", phases=(head, tune, head, again))
    blended = {"alpha": 0.5, "points": [{"alpha": 0.0, "accuracy": 0.6, "log_loss": 1.0},
                                        {"alpha": 0.5, "accuracy": 0.7, "log_loss": 0.9}]}  # fmt: skip
    best = {"epoch": 1, "val_accuracy": 0.65, "val_loss": 1.2}
    nothing = {"best": {"epoch": 1, "val_accuracy": 0.0, "val_loss": 0.0}}
    phases = {"1": {"best": best, "blend": blended}, "3": nothing}
    assert held_out({"phases": phases}, plan) == {"val_accuracy": 0.7, "val_loss": 0.9}
    blended["alpha"] = 0.25  # between two points that were measured
    assert held_out({"phases": phases}, plan) == {"val_accuracy": 0.65, "val_loss": 0.95}
    del phases["1"]["blend"]
    assert held_out({"phases": phases}, plan) == {"val_accuracy": 0.65, "val_loss": 1.2}
    assert held_out({"phases": {}}, refitted(Plan(strategy="x", phases=(tune,)))) == {}
