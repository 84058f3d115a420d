"""Every registered strategy, plugins too: a valid plan for any data, recipe keys obeyed, YAML and back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from finetune.errors import FinetuneError, StrategyError
from finetune.recipe import Recipe
from finetune.strategy import STRATEGIES
from finetune.strategy.auto import choose
from finetune.strategy.base import Strategy
from finetune.strategy.context import Context
from finetune.strategy.measure import Evidence, measure
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.zoo.card import ModelCard

CARDS = {
    "sgd": ModelCard(name="five", arch="resnet10t", source_lr=0.25, source_batch=128),
    "adamw": ModelCard(name="deep", arch="vit", source_lr=1e-3, source_batch=4096, source_optimizer="adamw"),
    "frozen norms": ModelCard(name="frozen", arch="mobilenet", freeze_norms=True),
}
COUNTS = {
    "two images": (1, 1),
    "tiny": (10, 10),
    "one image a class": (1,) * 7,
    "few of many classes": tuple([3] * 40),
    "unbalanced": (1, 2, 500),
    "a class without images": (20, 0, 30),
    "large": tuple([600] * 10),
    "huge": tuple([100_000] * 5),
}


@cache
def evidence(counts: tuple[int, ...], stages: int) -> Evidence:
    """Measured on random features in which later stages separate better; sampled like the real thing."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.full(min(c, 40), k) for k, c in enumerate(counts)])
    centres = rng.normal(size=(len(counts), 6))
    taps = [
        (rng.normal(size=(len(labels), 6)) + (i + 1) / stages * centres[labels]).astype(np.float32)
        for i in range(stages)
    ]
    return measure(taps, labels, len(counts), n=sum(counts), counts=counts)


def context(
    counts: tuple[int, ...],
    card: str = "sgd",
    stages: int = 5,
    strategy: str = "auto",
    keys: Sequence[str] = (),
) -> Context:
    recipe = Recipe().override(f"strategy={strategy}", *keys)
    return Context(recipe, counts, CARDS[card], stages, lambda: evidence(counts, stages), n_val=50)


def check(plan: Plan, ctx: Context) -> None:
    """What the executor relies on."""
    assert plan.phases
    assert plan.strategy in STRATEGIES
    assert plan.why
    assert plan.init == "pretrained" or not any(isinstance(p, ProbePhase) for p in plan.phases)
    for phase in plan.phases:
        if isinstance(phase, ProbePhase):
            assert phase.candidates[0] == (ctx.last,), "the last stage alone stays a candidate"
            assert len(set(phase.candidates)) == len(phase.candidates)
            for taps in phase.candidates:
                assert list(taps) == sorted(set(taps))
                assert 0 <= taps[0] <= taps[-1] <= ctx.last
        else:
            assert 0 <= phase.train_from <= ctx.num_stages
            assert 1 <= phase.epochs <= 400
            assert 0 < phase.lr < 1
            assert phase.head_lr >= phase.lr
            assert 0 < phase.stage_decay <= 1
            assert phase.batch_size >= 1
            assert phase.ema is None or 0 < phase.ema < 1
    fits = [phase.fit_on for phase in plan.phases]
    assert fits == sorted(fits), "validation must stay unseen where a later phase selects by it"
    for phase in plan.phases:
        if isinstance(phase, GradientPhase) and phase.fit_on == "train+val":
            assert phase.keep == "last"
            assert phase.blend in ("earlier", ())
    assert len(plan.rows()) == len(plan.phases)


@pytest.mark.parametrize("name", STRATEGIES.names())
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("stages", [1, 2, 5, 13])
def test_valid_plan_on_any_data(name: str, counts: tuple[int, ...], card: str, stages: int) -> None:
    ctx = context(counts, card, stages, name)
    plan, decision = choose(ctx)
    check(plan, ctx)
    assert Plan.from_yaml(plan.to_yaml()) == plan
    tree = decision.to_dict()
    keys = {
        "amount",
        "similarity",
        "likeness",
        "thresholds",
        "cell",
        "chosen",
        "runner_up",
        "reasons",
        "evidence",
    }
    assert set(tree) == keys
    assert tree["chosen"] == plan.strategy
    assert tree["reasons"]


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_same_context_same_plan(name: str) -> None:
    counts = COUNTS["unbalanced"]
    strategy: type[Strategy] = STRATEGIES.get(name)
    assert strategy().plan(context(counts)) == strategy().plan(context(counts))


OVERRIDES = {
    "epochs": 3,
    "batch_size": 48,
    "accumulate": 2,
    "lr": 0.0123,
    "head_lr": 0.3,
    "stage_decay": 0.5,
    "optimizer": "adamw",
    "momentum": 0.5,
    "weight_decay": 0.25,
    "schedule": "constant",
    "warmup": 0.2,
    "label_smoothing": 0.05,
    "clip_grad": None,
    "ema": 0.75,
    "augment": "strong",
}


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_recipe_keys_override_every_default(name: str) -> None:
    keys = [f"train.{k}={'null' if v is None else v}" for k, v in OVERRIDES.items()]
    plan, _ = choose(
        context(COUNTS["large"], strategy=name, keys=[*keys, "probe.solver=ridge", "probe.folds=3"])
    )
    for phase in plan.phases:
        expected = OVERRIDES if isinstance(phase, GradientPhase) else {"solver": "ridge", "folds": 3}
        assert {key: getattr(phase, key) for key in expected} == expected


@pytest.mark.parametrize("name", STRATEGIES.names())
@pytest.mark.parametrize("counts", [COUNTS["tiny"], COUNTS["large"]], ids=["tiny", "large"])
def test_statistics_that_must_not_move_stay(name: str, counts: tuple[int, ...]) -> None:
    """A card's frozen norms belong to its weights: random weights have no statistics worth keeping."""
    plan, _ = choose(context(counts, "frozen norms", strategy=name))
    wanted = "train" if plan.init == "random" else "frozen"
    assert {p.batch_norm for p in plan.phases if isinstance(p, GradientPhase)} <= {wanted}


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_refused_with_a_message_not_a_crash(name: str) -> None:
    for counts in ((5,), (), (5, 0, 0), (0, 0)):
        with pytest.raises(StrategyError, match="must be"):
            context(counts, strategy=name)
    with pytest.raises(StrategyError, match="at least one stage"):
        context((5, 5), stages=0, strategy=name)


def test_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(FinetuneError, match='Did you mean "linear"'):
        choose(context((5, 5), strategy="liner"))
