"""Adapters: for networks with linear layers, refused elsewhere before anything is computed, and part of a race."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from finetune.advice import decide, entrants, obey, set_up
from finetune.cli.app import cli
from finetune.errors import TrainingError
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.strategy.decision import Decision, neighbours
from finetune.strategy.plan import Plan
from finetune.strategy.suited import unsuited
from finetune.zoo.create import create_backbone

pytest.importorskip("peft")
FAR = Decision("very little", 0.2, ("very little data", "very different"), "full", "multistage", ())


def advise(data: Path, *words: str) -> Any:
    asked = ["strategy", "advise", "--data", str(data), "data.image_size=32", *words]
    return CliRunner().invoke(cli, asked, prog_name="finetune")


def test_lora_stands_beside_norm_bias_where_the_network_has_a_place_for_it() -> None:
    assert neighbours(FAR) == ("full", "multistage", "norm-bias", "lora", "linear", "lp-ft")
    assert "lora" not in neighbours(replace(FAR, unfit={"lora": "not for this network"}))
    vit, cnn = (
        create_backbone(name, pretrained=False, num_classes=2) for name in ("test_vit", "test_resnet")
    )
    assert unsuited(Recipe(), vit) == {}
    assert unsuited(Recipe(), cnn) == {"lora": "not for this network"}
    assert unsuited(Recipe().override("train.l2_sp=0.1"), vit) == {"lora": "not with train.l2_sp"}


def test_a_race_on_a_transformer_has_an_arm_with_adapters(picture_folder: Path) -> None:
    recipe = Recipe().override(
        f"data.path={picture_folder}", "backbone=test_vit", "pretrained=false", "epochs=1"
    )
    setup = set_up(recipe, None, Listener())
    found = decide(recipe, setup, Listener())
    assert found.decision.unfit == {}
    far = replace(found, decision=replace(found.decision, cell=FAR.cell))
    plans = [plan for plan, _ in entrants(far, recipe, setup, Listener())]
    assert "lora" in [plan.strategy for plan in plans]
    assert any(getattr(phase, "trains", "") == "lora" for plan in plans for phase in plan.phases)


def test_lora_on_a_cnn_is_refused_before_anything_is_measured(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = advise(picture_folder, "strategy=lora")
    assert told.exit_code == 2, told.output
    message = " ".join(told.stderr.split())
    assert "trains: lora needs linear layers in stages 1 and up. embedded has none there." in message
    assert "Use strategy norm-bias or partial" in message
    assert "Decision" not in told.stdout
    assert not list(tmp_path.iterdir())


def test_a_given_plan_is_held_against_the_network_too(picture_folder: Path) -> None:
    recipe = Recipe().override(f"data.path={picture_folder}", "data.image_size=32")
    tune = {"kind": "gradient", "train_from": 1, "epochs": 1, "lr": 0.1, "head_lr": 0.1, "trains": "lora"}
    setup = set_up(recipe, None, Listener())
    with pytest.raises(TrainingError, match="lora needs linear layers"):
        obey(Plan.model_validate({"strategy": "mine", "phases": [tune]}), recipe, setup, Listener())


def test_the_table_says_which_strategy_is_not_for_this_network(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "not for this network" in advise(picture_folder).stdout
    document = json.loads(advise(picture_folder, "--explain", "json").stdout)
    unfit = {row["name"]: row.get("unfit") for row in document["strategies"]}
    assert unfit.pop("lora") == "not for this network"
    assert set(unfit.values()) == {None}
