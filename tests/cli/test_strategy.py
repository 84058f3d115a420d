"""``finetune strategy ls | advise`` and ``--explain json``: what is printed, and what can be done with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

import finetune
from finetune.api import advise
from finetune.cli.app import cli
from finetune.cli.describe import augmentation_lines, cost_line
from finetune.data.load import load_data
from finetune.errors import ConfigError
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.strategy import STRATEGIES
from finetune.strategy.cost import Cost, estimate
from finetune.strategy.decision import Decision
from finetune.strategy.explanation import UNKNOWN, Explanation
from finetune.strategy.invariance import Drop, Trial
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.zoo.card import ModelCard
from finetune.zoo.create import create_backbone


def call(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(w) for w in words], prog_name="finetune")
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_a_network_without_pretrained_weights_is_not_called_pretrained(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for keys, told, not_told in (
        (("pretrained=false",), "random weights (pretrained=false)", "pretrained on"),
        ((), "pretrained on", "(pretrained=false)"),
    ):
        said = call("strategy", "advise", "--data", picture_folder, *keys).stdout
        assert told in said
        assert not_told not in said


def test_ls() -> None:
    said = call("strategy", "ls").stdout
    assert all(entry.name in said for entry in STRATEGIES)
    assert "finetune strategy advise" in said


def test_advise_explains_writes_a_plan_and_trains_nothing(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["strategy", "advise", "--data", picture_folder, "image_size=32", "strategy=partial", "epochs=1"]
    said = call(*words).stdout
    plain = " ".join(said.split())
    for part in (
        "very similar data set",
        "accuracy of a linear head",
        "several joined",
        "expected accuracy",
        UNKNOWN,
        "➤ partial",
        "1/10 of the",
        "of the pretraining",
        "Time: roughly",
        "Wrote the plan to plan.yaml; nothing was trained.",
        f"Next: finetune run --data {picture_folder} --plan plan.yaml",
    ):
        assert part in plain, part
    assert [p.name for p in tmp_path.iterdir()] == ["plan.yaml"]
    text = (tmp_path / "plan.yaml").read_text()
    assert "#   train_from: Index of the first stage that trains" in text
    assert "# Stages, input to head: 0 stem, " in text
    plan = Plan.from_yaml(text)
    assert plan.strategy == "partial"
    call(*words, "strategy=linear")
    assert {p.name for p in tmp_path.iterdir()} == {"plan.yaml", "plan-2.yaml"}
    assert "must be a file that does not exist" in call(*words, "--out", "plan.yaml", code=2).stderr
    # a person edits it, and it is carried out
    (tmp_path / "plan.yaml").write_text(text.replace("name: last stage\n", "name: as I like it\n"))
    run = ["run", "--data", picture_folder, "--plan", "plan.yaml", "--out", "r", "--quiet"]
    call(*run, "image_size=32", "precision=fp32")
    assert "as I like it" in (tmp_path / "r" / "training.json").read_text()


def test_advise_as_json(picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.yaml"
    found = call(
        "strategy", "advise", "--data", picture_folder, "image_size=32", "--explain", "json", "--out", out
    )
    tree = json.loads(found.stdout)
    assert {"amount", "similarity", "cell", "chosen", "runner_up", "reasons", "evidence"} <= set(tree)
    assert [row["name"] for row in tree["strategies"]] == [n for n in STRATEGIES.names() if n != "auto"]
    known = {row["name"]: row for row in tree["strategies"]}
    assert 0 <= known["linear"]["accuracy"] <= 1
    assert known["scratch"]["accuracy"] is None
    assert tree["stages"][0]["name"] == "stem"
    assert tree["seconds"]["total"] > 0
    assert tree["plan"] == yaml.safe_load(out.read_text())
    assert "Wrote the plan" in found.stderr
    assert "Decision" in found.stderr


def test_run_as_json_keeps_stdout_for_the_document(picture_folder: Path, tmp_path: Path) -> None:
    words = ["run", "--data", picture_folder, "--strategy", "linear", "image_size=32", "--explain", "json"]
    found = call(*words, "--out", tmp_path / "r")
    tree = json.loads(found.stdout)
    assert tree["chosen"] == "linear"
    assert "Test accuracy:" in found.stderr
    saved = json.loads((tmp_path / "r" / "decision.json").read_text())
    assert saved == {key: value for key, value in tree.items() if key != "seconds"}


def test_advise_from_python(picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    heard: list[Any] = []

    class Ear(Listener):
        def on_explanation(self, explanation: Any) -> None:
            heard.append(explanation)

    recipe = {"data": {"path": str(picture_folder), "image_size": 32}, "strategy": "multistage"}
    plan, decision = finetune.advise(recipe, listener=Ear())
    assert isinstance(plan, Plan)
    assert isinstance(decision, Decision)
    assert plan.strategy == decision.chosen == "multistage"
    assert heard[0].plan == plan
    settings = Recipe.from_mapping(recipe)
    bundle = load_data(settings.data, settings.seed)
    assert advise({"data": {"image_size": 32}, "strategy": "multistage"}, data=bundle)[0] == plan
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"data\.path must be a folder"):
        advise({})


# --- the sentences -------------------------------------------------------------------------------------

CARD = ModelCard(name="net", arch="resnet10t", source_lr=0.4, source_batch=128, source_optimizer="sgd")


def explained(phase: GradientPhase, card: ModelCard = CARD, **keys: Any) -> Explanation:
    decision = Decision("very little", None, None, "mine", None, ("because",))
    return Explanation(decision, Plan(strategy="mine", phases=(phase,)), card, ("a", "b"), ("x", "y"), **keys)


def tune(**keys: Any) -> GradientPhase:
    return GradientPhase(**{"train_from": 1, "epochs": 2, "lr": 0.02, "head_lr": 0.2, **keys})


def test_learning_rates_say_where_they_come_from() -> None:
    (said,) = explained(tune(lr=0.04)).rates()
    assert said == "Learning rate 0.04: 1/10 of the 0.4 (sgd, batch 128) of the pretraining; the head at 0.2."
    larger = replace(explained(tune(lr=0.08)), batch=256).rates()[0]
    assert larger.startswith(
        "Learning rate 0.08: 1/10 of the 0.4 (sgd, batch 128) of the pretraining, which is 0.8 at"
    )
    assert "2/10 of the 0.4" in explained(tune(lr=0.08)).rates()[0]
    random = explained(tune(lr=0.2))
    random = replace(random, plan=random.plan.model_copy(update={"init": "random"}))
    assert "Learning rate 0.2: the 0.4 (sgd, batch 128) of the pretraining, which is 0.2" in random.rates()[0]
    assert "each stage further down at 0.63 of the next one's" in explained(tune(stage_decay=0.63)).rates()[0]
    assert explained(tune(), asked=frozenset({"lr"})).rates() == [
        "Learning rate 0.02, as asked; the head at 0.2."
    ]
    assert "for adamw, translated from 0.4" in explained(tune(optimizer="adamw")).rates()[0]
    assert "usual for norms and biases" in explained(tune(trains="norms-biases")).rates()[0]
    assert "usual for adapters" in explained(tune(trains="lora", optimizer="adamw")).rates()[0]


def test_augmentations_that_stay_and_that_go() -> None:
    trials = (
        Trial(
            "flip", "light", True, "a probe loses 40.0 +- 3.0 points on such copies", 40, 0.9, Drop(0.4, 0.03)
        ),
        Trial("crop", "light", False, "a probe loses 0.0 +- 1.0 points", 40, 0.9, Drop(0.0, 0.01)),
    )
    assert augmentation_lines(explained(tune(avoid=("flip",)), trials=trials)) == [
        "Augmentation: no left-right flips: a probe loses 40.0 +- 3.0 points on such copies.",
        "Augmentation: random crops stay: the labels do not mind, as far as a probe can tell.",
    ]
    assert augmentation_lines(explained(tune(avoid=("colour",)))) == [
        "Augmentation: no changes of colour, as asked."
    ]


def test_cost_as_a_rough_figure() -> None:
    said = cost_line(Cost((10.0, 131.0), 3.0, 0.0042, 0.0123))
    assert said == "Time: roughly 2 min (4.2 ms an image to look at it and 12 ms to train on it)."
    assert cost_line(Cost((0.1,), 0.1, 0.0042, None)) == "Time: roughly 1 s (4.2 ms an image to look at it)."


def test_cost_grows_with_epochs_and_leaves_the_network_alone(picture_folder: Path) -> None:
    import torch

    recipe = Recipe().override(f"data.path={picture_folder}", "image_size=32")
    bundle = load_data(recipe.data, 0)
    backbone = create_backbone("embedded", num_classes=3, image_size=32).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    state = torch.get_rng_state()

    def cost(epochs: int, *dtype: torch.dtype) -> Cost:
        phases = (ProbePhase(candidates=((4,),)), tune(epochs=epochs, augment="light"))
        return estimate(Plan(strategy="mine", phases=phases), backbone, bundle, recipe, *dtype)

    seen: list[torch.dtype] = []
    backbone.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    cost(1, torch.bfloat16)
    assert set(seen) == {torch.float32, torch.bfloat16}  # looked at in the one, trained in the other
    short, long = cost(1), cost(50)
    assert len(short.phases) == 2
    assert short.step is not None
    assert short.step > short.forward > 0
    assert long.phases[1] > 10 * short.phases[1]
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in backbone.parameters())
    assert backbone.training
    assert torch.equal(torch.get_rng_state(), state)
