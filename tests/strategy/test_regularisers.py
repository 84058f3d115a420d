"""Losses and regularisers of a recipe reach every phase that trains by gradient steps; they are off by default."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.errors import ConfigError
from finetune.recipe import Recipe, TrainRecipe
from finetune.regularise import Regularisers
from finetune.strategy import STRATEGIES
from finetune.strategy.context import Context
from finetune.strategy.measure import Evidence
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.zoo.card import ModelCard

ASKED: dict[str, Any] = {
    "loss": "focal", "focal_gamma": 1.5, "huber_delta": 0.5, "class_weights": {"7": 2.0}, "sampling": "natural",
    "mixup": 0.2, "cutmix": 1.0, "input_noise": 0.1, "l1": 1e-5, "l2_sp": 0.01, "dropout": 0.2, "drop_connect": 0.1,
    "drop_path": 0.3, "head": "fractional-pool", "bottleneck": 32,
}  # fmt: skip
GRADIENT = ("norm-bias", "lora", "partial", "lp-ft", "full", "scratch")


def unmeasured() -> Evidence:
    raise AssertionError("only auto measures")


def plan(name: str, **train: Any) -> Plan:
    recipe = Recipe.from_mapping({"train": train})
    card = ModelCard(name="net", arch="resnet10t")
    return STRATEGIES.get(name)().plan(Context(recipe, (40,) * 10, card, 5, unmeasured, n_val=60))


def tuning(made: Plan) -> list[GradientPhase]:
    return [phase for phase in made.phases if isinstance(phase, GradientPhase)]


def test_every_key_is_asked_for_here() -> None:
    assert ASKED.keys() == Regularisers.model_fields.keys()


@pytest.mark.parametrize("name", GRADIENT)
def test_every_key_reaches_every_gradient_phase(name: str) -> None:
    phases = tuning(plan(name, **ASKED))
    assert phases
    for phase in phases:
        assert {key: getattr(phase, key) for key in ASKED} == ASKED


@pytest.mark.parametrize("name", GRADIENT)
def test_off_by_default(name: str) -> None:
    for phase in tuning(plan(name)):
        for key, field in Regularisers.model_fields.items():
            assert getattr(phase, key) == field.default == TrainRecipe.model_fields[key].default


def test_kind_and_name_lead_the_plan_file() -> None:
    assert list(GradientPhase.model_fields)[:2] == ["kind", "name"]
    made = plan("full", **ASKED)
    assert Plan.from_yaml(made.to_yaml()) == made


def test_a_bottleneck_trains_alone_first_and_is_not_refitted() -> None:
    made = plan("lp-ft", head="bottleneck", mixup=0.2, refit=True)
    alone, tune = tuning(made)
    assert len(made.phases) == 2
    assert (alone.name, alone.train_from, alone.augment, alone.mixup) == ("head first", 5, "none", 0.0)
    assert (tune.head, tune.mixup, tune.blend[0]) == ("bottleneck", 0.2, 0.0)
    assert isinstance(plan("lp-ft", mixup=0.2).phases[0], ProbePhase)


@pytest.mark.parametrize(("train", "message"), [
    ({"mixup": -1}, r"train\.mixup: must be greater than or equal to 0\. Got -1"),
    ({"dropout": 1.0}, r"train\.dropout: must be less than 1\. Got 1\.0"),
    ({"loss": "hinge"}, r"train\.loss: must be 'cross-entropy', 'focal', 'bce', 'mse', 'l1' or 'huber'\. Got 'hinge'"),
    ({"class_weights": {"cat": -2}}, r"train\.class_weights\.cat: must be greater than 0\. Got -2"),
    ({"mixupp": 1}, r"train\.mixupp: unknown key\. Did you mean \"mixup\""),
])  # fmt: skip
def test_values_that_make_no_sense(train: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan("full", **train)


def test_class_weights_on_the_command_line_and_classes_named_by_numbers() -> None:
    recipe = Recipe().override("class_weights={3: 2, cat: 1.5}")
    assert recipe.train.class_weights == {"3": 2.0, "cat": 1.5}
