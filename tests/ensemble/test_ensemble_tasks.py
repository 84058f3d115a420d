"""Ensembles, soups and bags of runs that learned labels or a number."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from finetune import Classifier
from finetune.api import open_run, run
from finetune.cli.app import cli
from finetune.ensemble.bag import bag
from finetune.ensemble.build import ensemble, soup
from finetune.ensemble.candidates import own_images, read_candidates
from finetune.errors import ConfigError, RunError
from finetune.evaluation.scores import score_labels, score_numbers
from finetune.strategy.plan import Plan, ProbePhase

Runs = dict[str, list[Path]]


def call(*words: object) -> str:
    result = CliRunner().invoke(cli, [str(w) for w in words], prog_name="finetune")
    assert result.exit_code == 0, (result.output, result.exception)
    return " ".join(result.stdout.split())


def asked(folder: Path, table: str, **more: Any) -> dict[str, Any]:
    data = {"path": str(folder / f"{table}.csv"), "image_size": 32, "split_seed": 0}
    data |= {"label_column": "light"} if table == "numbers" else {"task": "multi-label"}
    return {"data": data, "strategy": "linear", **more}


@pytest.fixture(scope="module")
def runs(table_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Heads of three strengths on numbers, the last a poor one; two trained networks and a poor one on labels."""
    root = tmp_path_factory.mktemp("runs")
    train = {"epochs": 1, "refit": False, "precision": "fp32", "channels_last": False, "avoid": []}
    wild = {"lr": 0.5, "head_lr": 5.0, "clip_grad": None, "safety_net": False}
    made: Runs = {"numbers": [], "labels": []}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(root / "cache"))
        for seed, strength in enumerate((1e-3, 1e-1, 1e4)):
            recipe = asked(table_folder, "numbers", seed=seed, out=str(root / f"n{seed}"))
            phase = ProbePhase(candidates=((4,),), lambdas=(strength,))
            plan = Plan(strategy="linear", phases=(phase,))
            made["numbers"].append(run(recipe, plan=plan, figures=False).path)
        for seed in range(3):
            keys = {**train, **(wild if seed == 2 else {})}
            recipe = asked(table_folder, "labels", seed=seed, train=keys, out=str(root / f"l{seed}"))
            made["labels"].append(run({**recipe, "strategy": "partial"}, figures=False).path)
    return made


def test_the_mean_of_numbers_answers_like_a_run(runs: Runs, table_folder: Path, tmp_path: Path) -> None:
    both, out = runs["numbers"][:2], tmp_path / "both"
    said = call("ensemble", *both, "--out", out)
    assert "Test mean absolute error together:" in said
    kept = json.loads((out / "ensemble.json").read_text())["members"]
    tests = [open_run(path).result["test"] for path in both]
    for member, test in zip(kept, tests, strict=True):  # features are computed in other batches: float noise
        for figure in ("mae", "rmse", "interval"):
            assert member[figure] == pytest.approx(test[figure], rel=1e-4)
    assert f"{kept[0]['mae']:.4g}" in said
    images = [table_folder / "03.png", table_folder / "05.png"]
    each = [[a.value for a in open_run(path).predict(images)] for path in both]
    answers = json.loads(call("predict", out, *images, "--json"))
    assert [set(answer) for answer in answers] == [{"image", "value"}] * 2
    assert [answer["value"] for answer in answers] == pytest.approx(np.mean(each, axis=0))  # type: ignore[arg-type]
    assert Classifier.load(out).predict(images).tolist() == pytest.approx([a["value"] for a in answers])
    assert call("evaluate", out, "--data", table_folder / "numbers.csv").startswith("Mean absolute error on")
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "value", "predicted"]
    errors = [abs(float(row["value"]) - float(row["predicted"])) for row in rows]
    test = open_run(out).result["test"]
    assert test["mae"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert test["members"] == [t["mae"] for t in tests]


def test_greedy_chooses_by_squared_error(runs: Runs, tmp_path: Path) -> None:
    found = ensemble(runs["numbers"], greedy=True, out=tmp_path / "e")
    kept = {m["run"]: m["weight"] for m in json.loads((found.path / "ensemble.json").read_text())["members"]}
    assert str(runs["numbers"][2]) not in kept
    candidates = read_candidates(runs["numbers"])
    val = own_images(candidates).val

    def error(answers: np.ndarray) -> float:
        return float(np.square(answers - val.targets).mean())

    alone = [error(c.run.probabilities(val)) for c in candidates]
    assert max(alone) == alone[2]
    assert error(found.probabilities(val)) <= min(alone) * (1 + 1e-6)


def test_a_soup_of_linear_heads_is_the_mean_of_their_numbers(
    runs: Runs, table_folder: Path, tmp_path: Path
) -> None:
    table = table_folder / "numbers.csv"
    whole = soup(runs["numbers"][:2], "uniform", out=tmp_path / "s")
    assert whole.task.name == "regression"
    test = own_images(read_candidates(runs["numbers"])).test
    parts = [open_run(path).probabilities(test) for path in runs["numbers"][:2]]
    np.testing.assert_allclose(whole.probabilities(test), np.mean(parts, axis=0), rtol=1e-4)
    expected = score_numbers(test.targets[:, 0], np.mean(parts, axis=0)[:, 0])
    assert whole.result["test"]["r2"] == pytest.approx(expected.r2, rel=1e-3)
    with pytest.raises(RunError, match=r"saw \d+ of the 72 test images"):
        soup(runs["numbers"][:2], "uniform", out=tmp_path / "no", data=table)


def test_labels_are_the_mean_of_sigmoids(runs: Runs, table_folder: Path, tmp_path: Path) -> None:
    paths = runs["labels"]
    found = ensemble(paths[:2], out=tmp_path / "e")
    test = own_images(read_candidates(paths)).test
    mean = np.mean([open_run(path).probabilities(test) for path in paths[:2]], axis=0)
    np.testing.assert_allclose(found.probabilities(test), mean, atol=1e-6)
    expected = score_labels(test.targets, mean, found.classes)
    assert found.result["test"]["mean_ap"] == pytest.approx(expected.mean_ap)
    assert found.result["test"]["metric"] == "mean_ap"
    (answer,) = found.predict([table_folder / "03.png"])
    assert answer.label is None
    assert answer.labels == tuple(c for c, p in (answer.probabilities or {}).items() if p > 0.5)
    chosen = ensemble(paths, greedy=True, out=tmp_path / "g")
    val = own_images(read_candidates(paths)).val

    def loss(path: Path) -> float:
        return score_labels(val.targets, open_run(path).probabilities(val), found.classes).log_loss

    assert loss(chosen.path) <= min(loss(path) for path in paths) + 1e-6


def test_a_greedy_soup_never_falls_below_the_best_by_f1(runs: Runs, tmp_path: Path) -> None:
    from sklearn.metrics import f1_score

    paths = runs["labels"]
    found = soup(paths[::-1], "greedy", out=tmp_path / "s")
    val = own_images(read_candidates(paths)).val

    def f1(path: Path) -> float:
        yes = open_run(path).probabilities(val) > 0.5
        return float(f1_score(val.targets, yes, average="samples", zero_division=1.0))

    assert f1(found.path) >= max(f1(path) for path in paths)
    told = json.loads((found.path / "soup.json").read_text())["members"]
    assert all(0 <= member["mean_ap"] <= 1 for member in told)
    assert told[int(np.argmax([f1(path) for path in paths[::-1]]))]["taken"]


def test_a_bag_of_ridge_heads(table_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bag"
    said = call("ensemble", "--bag", 2, "--data", table_folder / "numbers.csv", "--strategy", "linear", "--out", out,
                "image_size=32", "label_column=light")  # fmt: skip
    assert "Out of bag: " in said
    assert "Test mean absolute error together:" in said
    with (out / "single" / "splits.csv").open(newline="") as file:
        truth = {row["image"]: float(row["label"]) for row in csv.DictReader(file) if row["split"] == "train"}
    answers: dict[str, list[float]] = {}
    for number in "12":
        with (out / "bags" / number / "splits.csv").open(newline="") as file:
            drawn = [row["image"] for row in csv.DictReader(file) if row["split"] == "train"]
        assert len(set(drawn)) < len(drawn) == len(truth)
        left = [name for name in truth if name not in drawn]
        for name, answer in zip(
            left, open_run(out / "bags" / number).predict([table_folder / n for n in left]), strict=True
        ):
            answers.setdefault(name, []).append(float(answer.value or 0.0))
    told = json.loads((out / "bag.json").read_text())["out_of_bag"]
    assert told["n"] == len(answers)
    errors = [abs(np.mean(values) - truth[name]) for name, values in answers.items()]
    assert told["mae"] == pytest.approx(np.mean(errors), rel=1e-3)


def test_a_bag_of_labels(table_folder: Path, tmp_path: Path) -> None:
    found = bag(asked(table_folder, "labels", out=str(tmp_path / "bag")), 2)
    test = found.result["test"]
    assert test["task"] == "multi-label"
    assert len(test["members"]) == 2
    told = json.loads((found.path / "bag.json").read_text())
    assert told["out_of_bag"]["mean_ap"] > 0.6
    assert found.predict([table_folder / "00.png"])[0].labels is not None


def test_what_does_not_go_together(runs: Runs, table_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"must be that of '.*l0' \(multi-label\), to be put together. Got regression"
    ):
        ensemble([runs["labels"][0], runs["numbers"][0]], out=tmp_path / "e")
    for table, solver, said in (
        ("numbers", "logistic", "must be auto or ridge where the task is regression. Got 'logistic'"),
        ("labels", "ridge", "must be logistic in a bag: .* Got 'ridge'"),
    ):
        with pytest.raises(ConfigError, match=said):
            bag(asked(table_folder, table, probe={"solver": solver}, out=str(tmp_path / "b")), 2)
    assert not (tmp_path / "b").exists()
