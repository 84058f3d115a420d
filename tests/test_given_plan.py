"""A plan that is given: carried out as it stands, kept as it was written, refused with every problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from finetune.api import resume, run
from finetune.cli.app import cli
from finetune.errors import ConfigError, Interrupted
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.training.plan_file import decided_by_plan, read_plan, refuse_beside_plan

MINE = """# my own plan: ridge first, then a little
strategy: mine
phases:
- kind: probe
  name: ridge
  candidates: [[3], [4]]
  solver: ridge
- kind: gradient
  name: last stage
  train_from: 4
  epochs: 1
  lr: 1e-3
  head_lr: 0.01
  augment: light
why: Because.
"""


def keys(data: Path, out: Path, **more: Any) -> dict[str, Any]:
    train = {"precision": "fp32", "channels_last": False}
    return {"data": {"path": str(data), "image_size": 32}, "out": str(out), "train": train, **more}


def test_the_plan_is_carried_out_and_kept_as_written(picture_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    found = run(keys(picture_folder, tmp_path / "r"), plan=file, figures=False)
    assert (found.path / "plan.yaml").read_text() == MINE
    assert (found.result["strategy"], found.result["chosen"]) == ("given", "mine")
    assert found.decision["plan_given"]
    assert found.decision["reasons"] == ["The plan was given: nothing was measured or decided."]
    phases = json.loads((found.path / "training.json").read_text())["phases"]
    assert [phases[k]["name"] for k in sorted(phases)] == ["ridge", "last stage"]
    first = (found.path / "recipe.yaml").read_text().splitlines()[0]
    assert first.endswith(f"--recipe {found.path / 'recipe.yaml'} --plan {found.path / 'plan.yaml'}")


def test_a_plan_object_and_a_stop_before_training(picture_folder: Path, tmp_path: Path) -> None:
    plan = Plan(strategy="mine", phases=(ProbePhase(candidates=((4,),), solver="ridge"),))
    whole = run(keys(picture_folder, tmp_path / "a"), plan=plan, figures=False)

    class Stop(Listener):
        def on_decision(self, decision: Any) -> None:
            raise Interrupted("Stopped.")

    with pytest.raises(Interrupted):
        run(keys(picture_folder, tmp_path / "b"), plan=plan, listener=Stop(), figures=False)
    (tmp_path / "b" / "decision.json").unlink()  # as if stopped a moment earlier
    again = resume(tmp_path / "b", figures=False)
    assert again.result["test"]["accuracy"] == whole.result["test"]["accuracy"]
    assert again.result["test"]["log_loss"] == pytest.approx(whole.result["test"]["log_loss"], abs=1e-6)
    assert (again.result["strategy"], again.result["chosen"]) == ("given", "mine")
    assert again.decision == whole.decision


def problems(text: str, tmp_path: Path) -> str:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_plan(file, 5, "net")
    return str(caught.value)


def test_every_problem_in_one_message(tmp_path: Path) -> None:
    said = problems(
        "strategy: mine\nphases:\n"
        "- {kind: probe, candidates: [[5], [], [1, 1]], solvr: ridge}\n"
        "- {kind: gradient, train_from: 6, epochs: 1, lr: 0, head_lr: 1, optimizer: lionn, schedule: cosin,\n"
        "   augment: heavy, momentum: 2}\n",
        tmp_path,
    )
    assert said.startswith("10 problems in Plan ")
    for part in (
        'phases.0.solvr: unknown key. Did you mean "solver"?',
        "phases.0.candidates.0 must be stage numbers in 0..4 (net has 5 stages). Got [5] instead.",
        "phases.0.candidates.1 must be a list of stages, each once. Got [] instead.",
        "phases.0.candidates.2 must be a list of stages, each once. Got [1, 1] instead.",
        "phases.1.lr: must be greater than 0. Got 0 instead.",
        "phases.1.momentum: must be less than 1. Got 2 instead.",
        "phases.1.optimizer must be one of sgd, adagrad, ",
        "Got 'lionn' instead. Did you mean \"lion\"?",
        "phases.1.schedule must be one of cosine, constant, ",
        "Got 'cosin' instead. Did you mean \"cosine\"?",
        "phases.1.augment must be one of none, light, standard, strong, trivial, rand, autoaugment, rich. "
        "Got 'heavy' instead.",
        "phases.1.train_from must be at most 5 (net has 5 stages; 5 is the head alone). Got 6 instead.",
    ):
        assert part in said, part


def test_operations_and_crops_are_named(tmp_path: Path) -> None:
    phase = "phases:\n- {kind: gradient, train_from: 1, epochs: 1, lr: 1, head_lr: 1, "
    file = tmp_path / "plan.yaml"
    for given in ("crop+flip", "[crop, flip]"):
        file.write_text(f"strategy: mine\n{phase} augment: {given}, crop: short-side, augment_on: device}}\n")
        (made,) = read_plan(file, 5, "net")[0].phases
        assert isinstance(made, GradientPhase)
        assert (made.augment, made.crop, made.policy) == ("crop+flip", "short-side", "crop+flip/short-side")
    for given in ("crop+flp", "[crop, flp]"):
        said = problems(f"strategy: mine\n{phase} augment: {given}, crop: short}}\n", tmp_path)
        assert "phases.0.augment must be one of crop, flip, rotation" in said
        assert "Got 'flp' instead. Did you mean \"flip\"?" in said
        assert "phases.0.crop: must be 'area' or 'short-side'. Got 'short' instead." in said
    said = problems(f"strategy: mine\n{phase} augment: light/short-side}}\n", tmp_path)
    assert "Got 'light/short-side' instead." in said


def test_keys_that_suit_neither_schedule_nor_optimizer(tmp_path: Path) -> None:
    said = problems(
        "strategy: mine\nphases:\n"
        "- {kind: gradient, train_from: 1, epochs: 1, lr: 1, head_lr: 1, optimizer: lion, eps: 1.0e-8,\n"
        "   schedule: step, schedule_args: {gama: .1, milestones: [2]}}\n",
        tmp_path,
    )
    assert said.startswith("3 problems in Plan ")
    assert "phases.0.eps must be left out: lion has no eps. Got 1e-08 instead." in said
    assert "phases.0.schedule_args.gama: unknown argument of step, which takes milestones, gamma. Did" in said
    assert "phases.0.schedule_args.milestones: must be less than 1. Got 2 instead." in said


def test_validation_images_are_for_one_thing(tmp_path: Path) -> None:
    said = problems(MINE.replace("  solver: ridge", "  fit_on: train+val"), tmp_path)
    assert "phases.0.fit_on must be train where a later phase trains by gradient steps" in said


def test_files_that_are_no_plan(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Plan '.*none.yaml' does not exist\. `finetune strategy advise"):
        read_plan(tmp_path / "none.yaml", 5, "net")
    with pytest.raises(ConfigError, match=r"Plan '.*' cannot be read"):
        read_plan(tmp_path, 5, "net")
    assert "line 2 is not valid YAML" in problems("strategy: a\nphases: [", tmp_path)
    assert "must be a mapping with strategy and phases. Got NoneType instead." in problems("", tmp_path)
    assert "phases: must be given" in problems("strategy: a\n", tmp_path)
    assert "probe: unknown key" in problems("strategy: a\nprobe: {solver: ridge}\nphases: []\n", tmp_path)
    assert "phases.0.candidates must be at least one list of stages. Got none" in problems(
        "strategy: a\nphases: [{kind: probe, candidates: []}]\n", tmp_path
    )


def test_a_bad_plan_leaves_nothing_and_reads_no_images(tmp_path: Path) -> None:
    plan = Plan(strategy="mine", phases=(GradientPhase(train_from=99, epochs=1, lr=0.1, head_lr=0.1),))
    with pytest.raises(
        ConfigError, match=r"1 problem in the given plan: phases.0.train_from must be at most 5"
    ):
        run(keys(tmp_path / "no images", tmp_path / "r"), plan=plan)
    assert list(tmp_path.iterdir()) == []


def test_what_a_plan_decides_is_not_asked_for_beside_it(picture_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"strategy, budget, train\.epochs, probe\.solver must be left out where a plan is given.* Got both",
    ):
        refuse_beside_plan(
            ["strategy=linear", "budget=60", "epochs=3", "solver=ridge", "seed=3", "precision=fp32"]
        )
    refuse_beside_plan(["seed=3", "train.precision=fp32", "probe.cache=false", "data.val_fraction=0.2"])
    with pytest.raises(ConfigError, match="train.lr must be left out"):
        run(keys(picture_folder, tmp_path / "r"), "lr=0.1", plan=tmp_path / "p.yaml")
    said = CliRunner().invoke(
        cli,
        ["run", "--data", str(picture_folder), "--strategy", "linear", "--plan", str(tmp_path / "p.yaml")],
    )
    assert said.exit_code == 2
    assert "strategy must be left out where a plan is given" in said.stderr


def test_what_a_recipe_file_asks_for_gives_way() -> None:
    recipe = Recipe().override("strategy=linear", "epochs=3", "precision=fp32", "probe.folds=3")
    assert decided_by_plan(recipe) == ["strategy", "train.epochs", "probe.folds"]
    assert decided_by_plan(Recipe()) == []
