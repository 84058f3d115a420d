"""The Python API on real small images: runs, their folders, repeating, resuming, the estimator."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import finetune
from finetune import Classifier
from finetune.api import Run, open_run, resume, run
from finetune.data.load import from_datasets
from finetune.errors import ConfigError, DataError, Interrupted, RunError
from finetune.events import Listener
from finetune.recipe import Recipe

FILES = {
    "recipe.yaml",
    "plan.yaml",
    "decision.json",
    "result.json",
    "metrics.jsonl",
    "env.json",
    "predictions.csv",
    "splits.csv",
    "quarantine.csv",
    "confusion.png",
    "model",
    "checkpoints",
}
SMALL: dict[str, Any] = {"image_size": 32}


def recipe(data: Path, out: Path | None = None, **keys: Any) -> dict[str, Any]:
    return {"data": {"path": str(data), **SMALL}, "out": str(out) if out else None, **keys}


def assert_same_test(run: Run, other: Run) -> None:
    """All figures equal; the log-loss of sure answers is good to a few units of float32's last digit, which
    the BLAS does not repeat where arrays happen to lie at other addresses."""
    mine, theirs = dict(run.result["test"]), dict(other.result["test"])
    assert mine.pop("log_loss") == pytest.approx(theirs.pop("log_loss"), abs=1e-6)
    assert mine == theirs


def as_number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def test_public_names() -> None:
    assert finetune.__all__ == [
        "Classifier",
        "FinetuneError",
        "Listener",
        "Recipe",
        "Run",
        "__version__",
        "advise",
        "create_backbone",
        "open_run",
        "resume",
        "run",
    ]
    for name in finetune.__all__:
        assert getattr(finetune, name) is not None
    assert dir(finetune) == sorted(finetune.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = finetune.nothing  # type: ignore[attr-defined]


def test_importing_finetune_imports_nothing_heavy() -> None:
    code = (
        "import sys, finetune; print([m for m in ('torch', 'pydantic', 'numpy', 'PIL') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


# --- the run folder ----------------------------------------------------------------------------------


def test_run_folder(finished_run: Path, picture_folder: Path) -> None:
    assert {p.name for p in finished_run.iterdir()} >= FILES
    assert {p.name for p in (finished_run / "model").iterdir()} == {"model.safetensors", "config.json"}
    result = json.loads((finished_run / "result.json").read_text())
    assert result["strategy"] == result["chosen"] == "linear"
    assert result["backbone"] == "embedded"
    assert result["seed"] == 0
    assert result["test"]["n"] == 5
    low, high = result["test"]["interval"]
    assert 0 <= low <= result["test"]["accuracy"] <= high <= 1
    assert result["test"]["accuracy"] > 0.8
    assert result["seconds"] > 0
    assert result["trained_parameters"] == 3 * 512 + 3
    decision = json.loads((finished_run / "decision.json").read_text())
    assert set(decision) >= {"amount", "similarity", "cell", "chosen", "runner_up", "reasons"}
    assert decision["chosen"] == "linear"
    splits = list(csv.DictReader((finished_run / "splits.csv").read_text().splitlines()))
    assert len(splits) == 36
    assert {row["split"] for row in splits} == {"train", "val", "test"}
    predictions = list(csv.DictReader((finished_run / "predictions.csv").read_text().splitlines()))
    assert [row["image"] for row in predictions] == [row["image"] for row in splits if row["split"] == "test"]
    right = np.mean([row["label"] == row["predicted"] for row in predictions])
    assert right == pytest.approx(result["test"]["accuracy"])
    env = json.loads((finished_run / "env.json").read_text())
    assert env["packages"]["torch"] == torch.__version__.split("+")[0] or env["packages"]["torch"]
    with Image.open(finished_run / "confusion.png") as png:
        assert png.width > 200


def test_the_saved_recipe_repeats_the_run(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the recipe must hold absolute paths
    again = run(finished_run / "recipe.yaml", figures=False)
    assert again.path.parent == Path("runs")
    assert (tmp_path / "runs" / "latest").resolve() == again.path.resolve()
    first = Run(finished_run)
    assert_same_test(again, first)
    mine, theirs = (
        list(csv.reader((r.path / "predictions.csv").read_text().splitlines())) for r in (again, first)
    )
    for row, other in zip(mine, theirs, strict=True):
        assert [as_number(cell) for cell in row] == pytest.approx(
            [as_number(cell) for cell in other], abs=1e-5
        )
    assert (again.path / "plan.yaml").read_text() == (finished_run / "plan.yaml").read_text()


@pytest.mark.parametrize("strategy", ["auto", "multistage", "partial", "full", "lp-ft", "scratch"])
def test_every_strategy_runs(strategy: str, picture_folder: Path, tmp_path: Path) -> None:
    heard: list[str] = []

    class Ear(Listener):
        def on_data(self, profile: Any) -> None:
            heard.append("data")

        def on_backbone(self, facts: dict[str, Any]) -> None:
            heard.append("backbone")

        def on_decision(self, decision: Any) -> None:
            heard.append("decision")

        def on_plan(self, plan: Any) -> None:
            heard.append("plan")

        def on_result(self, result: dict[str, Any]) -> None:
            heard.append("result")

    keys = recipe(picture_folder, tmp_path / "r", strategy=strategy, train={"epochs": 1, "precision": "fp32"})
    found = run(keys, listener=Ear(), figures=strategy == "auto")
    assert heard == ["data", "backbone", "decision", "plan", "result"]
    assert found.result["strategy"] == strategy
    assert found.result["chosen"] == found.decision["chosen"]
    plan = yaml.safe_load((found.path / "plan.yaml").read_text())
    assert plan["strategy"] == found.result["chosen"]
    assert found.result["trained_parameters"] <= found.result["parameters"]
    if strategy in ("full", "scratch"):
        assert found.result["trained_parameters"] == found.result["parameters"]
        rows = [json.loads(line) for line in (found.path / "metrics.jsonl").read_text().splitlines()]
        assert rows
    if strategy == "auto":
        assert 0 <= found.decision["similarity"] <= 1
        assert (found.path / "stages.png").is_file()
    answers = found.predict(sorted((picture_folder / "disc").glob("*.png"))[:2])
    assert {a.label for a in answers} <= {"across", "disc", "down"}


def test_quarantine_is_listed(picture_folder: Path, tmp_path: Path) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(picture_folder, data)
    (data / "disc" / "empty ü.png").write_bytes(b"")
    found = run(recipe(data, tmp_path / "r", strategy="linear"), figures=False)
    rows = list(csv.DictReader((found.path / "quarantine.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["image"] for row in rows] == ["disc/empty ü.png"]
    assert "0 bytes" in rows[0]["reason"]
    assert found.result["quarantined"] == 1


# --- what may go wrong ---------------------------------------------------------------------------------


def test_output_folder_in_use(finished_run: Path, picture_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"must be a new or empty folder\. Got one with files in it .*finetune resume"
    ):
        run(recipe(picture_folder, finished_run, strategy="linear"))
    (tmp_path / "x").write_text("mine")
    with pytest.raises(RunError, match="Got a file instead"):
        run(recipe(picture_folder, tmp_path / "x", strategy="linear"))
    assert (tmp_path / "x").read_text() == "mine"


def test_a_failed_start_leaves_nothing(picture_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run(recipe(tmp_path / "none", tmp_path / "r"))
    with pytest.raises(ConfigError, match=r'strategy must be one of .* Did you mean "linear"'):
        run(recipe(picture_folder, tmp_path / "r", strategy="liner"))
    with pytest.raises(finetune.FinetuneError, match="resnet"):
        run(recipe(picture_folder, tmp_path / "r", backbone="resnet5O"))
    with pytest.raises(ConfigError, match=r"data\.path must be a folder"):
        run({"strategy": "linear", "out": str(tmp_path / "r")})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_message(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="The disk is full"):
        run(recipe(picture_folder, tmp_path / "r", strategy="linear"))


def test_recipes_from_anything() -> None:
    with pytest.raises(ConfigError, match="recipe must be a Recipe, a mapping, a file"):
        run(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r'no recipe \'quick-lok\'\. Did you mean "quick-look"'):
        run("quick-lok")


def test_unknown_and_unfinished_runs(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r'does not exist\. Did you mean "run"'):
        open_run(finished_run.parent / "runn")
    with pytest.raises(RunError, match=r"is not the folder of a run: it has no recipe.yaml"):
        open_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text("strategy: linear\n")
    with pytest.raises(RunError, match=r"did not finish\. Go on with: finetune resume"):
        open_run(tmp_path)


def test_resuming_a_finished_run_returns_it(finished_run: Path) -> None:
    before = (finished_run / "result.json").read_bytes()
    assert resume(finished_run).result["strategy"] == "linear"
    assert (finished_run / "result.json").read_bytes() == before


def test_resuming_before_training_gives_the_same_result(finished_run: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    (stopped / "recipe.yaml").write_bytes((finished_run / "recipe.yaml").read_bytes())
    assert_same_test(resume(stopped, figures=False), Run(finished_run))


def test_resuming_with_other_images_is_refused(
    finished_run: Path, picture_folder: Path, tmp_path: Path
) -> None:
    stopped, images = tmp_path / "stopped", shutil.copytree(picture_folder, tmp_path / "images")
    stopped.mkdir()
    tree = yaml.safe_load((finished_run / "recipe.yaml").read_text())
    tree["data"]["path"] = str(images)
    (stopped / "recipe.yaml").write_text(yaml.safe_dump(tree))
    (stopped / "splits.csv").write_bytes((finished_run / "splits.csv").read_bytes())
    (images / "disc" / "03.png").unlink()
    with pytest.raises(
        RunError, match=r"began with\. Got 1 of 36 missing \(the first: 'disc/03.png'\) instead"
    ):
        resume(stopped, figures=False)
    assert (stopped / "recipe.yaml").is_file()


class StopAtPhase(Listener):
    def on_phase(self, phase: Any, index: int) -> None:
        raise Interrupted("Stopped.")


def test_runs_on_images_in_memory_go_on_with_the_same_images(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = Pairs(picture_folder, "array")
    model = Classifier("linear", image_size=32, listener=StopAtPhase())
    with pytest.raises(Interrupted):
        model.fit(data)
    del model
    (folder,) = tmp_path.glob("finetune-*/run")  # kept, so that there is something to go on with
    with pytest.raises(
        RunError, match=r"was made from images in memory, .*finetune\.resume\('.*', data=bundle"
    ):
        resume(folder)
    recipe = Recipe.load(folder / "recipe.yaml")
    bundle = from_datasets(data, recipe=recipe.data, seed=recipe.seed)
    assert resume(folder, data=bundle, figures=False).result["test"]["n"] == 5


# --- a finished run ------------------------------------------------------------------------------------


def test_predict_and_evaluate(finished_run: Path, picture_folder: Path) -> None:
    found = open_run(finished_run)
    assert repr(found) == f"Run('{finished_run}')"
    test = list(csv.DictReader((finished_run / "predictions.csv").read_text().splitlines()))
    answers = found.predict([picture_folder / row["image"] for row in test])
    assert [a.label for a in answers] == [row["predicted"] for row in test]
    np.testing.assert_allclose(
        [a.probability for a in answers], [float(r["probability"]) for r in test], atol=1e-4
    )
    scores = found.evaluate(picture_folder)
    assert scores.n == 36
    assert scores.accuracy > 0.9


def test_export(finished_run: Path, picture_folder: Path, tmp_path: Path) -> None:
    import timm

    found = open_run(finished_run)
    out = found.export(tmp_path / "exported")
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**data, is_training=False)
    paths = sorted(picture_folder.rglob("*.png"))[::5]
    with torch.inference_mode():
        logits = model(torch.stack([transform(Image.open(p).convert("RGB")) for p in paths]))
    assert [found.classes[k] for k in logits.argmax(1)] == [a.label for a in found.predict(paths)]


# --- the estimator -------------------------------------------------------------------------------------


class Pairs(torch.utils.data.Dataset[tuple[Any, int]]):
    """(image, label) in one of the accepted forms."""

    def __init__(self, folder: Path, form: str) -> None:
        paths = sorted(folder.rglob("*.png"))
        names = sorted({p.parent.name for p in paths})
        self.items = [(Image.open(p).convert("RGB"), names.index(p.parent.name)) for p in paths]
        self.form = form

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.items[index]
        array = np.array(image)
        forms = {"pil": image, "array": array, "tensor": torch.from_numpy(array).permute(2, 0, 1)}
        return forms[self.form], label


@pytest.mark.parametrize("form", ["pil", "tensor", "array"])
def test_classifier_on_datasets(form: str, picture_folder: Path, tmp_path: Path) -> None:
    data = Pairs(picture_folder, form)
    model = Classifier(strategy="linear", image_size=32).fit(data)
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.predict(data).shape == (36,)
    probabilities = model.predict_proba([data[0][0], data[20][0]])
    assert probabilities.shape == (2, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert model.score(data) > 0.9
    if form == "pil":
        saved = model.save(tmp_path / "saved")
        again = Classifier.load(saved)
        assert again.predict([data[0][0]]).tolist() == model.predict([data[0][0]]).tolist()
        assert again.classes_.tolist() == [0, 1, 2]
        with pytest.raises(RunError, match=r"The folder to save to .* must be a new or empty folder"):
            model.save(saved)
        assert (again.export(tmp_path / "exported") / "model.safetensors").is_file()


def test_classifier_on_a_folder_keeps_names(picture_folder: Path) -> None:
    model = Classifier("linear", image_size=32).fit(picture_folder)
    assert model.classes_.tolist() == ["across", "disc", "down"]
    path = picture_folder / "disc" / "00.png"
    assert model.predict(path).tolist() == ["disc"]
    assert model.score([path], ["disc"]) == 1.0
    assert model.score(picture_folder) > 0.9
    assert model.result_["test"]["n"] == 5
    with pytest.raises(DataError, match="must be an existing file"):
        model.predict(["gone.png"])


def test_classifier_keys_and_mistakes(picture_folder: Path) -> None:
    model = Classifier(strategy="full", epochs=3, train__augment="none", lr=1e-5, seed=7)
    assert model.recipe.train.epochs == 3
    assert model.recipe.train.augment == "none"
    assert model.recipe.train.lr == 1e-5
    assert repr(model) == "Classifier(strategy='full', backbone='embedded': not fitted)"
    with pytest.raises(
        ConfigError, match=r'2 problems in Classifier:\n.*epochz: unknown key\. Did you mean "epochs"'
    ):
        Classifier(epochz=3, foo=1)
    with pytest.raises(RunError, match=r"This Classifier has no network yet\. Call fit"):
        model.predict([])
    with pytest.raises(ConfigError, match="val and test must be left out where train is a folder"):
        model.fit(picture_folder, val=[1])
