"""Bags: the draw, out-of-bag answers by hand, and a bag of linear heads."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from finetune.api import open_run
from finetune.cli.app import cli
from finetune.ensemble.bag import bootstrap, left_out, out_of_bag


def test_the_draw_keeps_classes_and_leaves_a_third_out() -> None:
    labels = np.repeat([0, 1, 2], [500, 300, 1])
    draw = bootstrap(labels, 0, 1)
    assert np.bincount(labels[draw]).tolist() == [500, 300, 1]
    assert len(left_out(draw, len(labels))) / len(labels) == pytest.approx(np.exp(-1), abs=0.05)
    assert (draw == bootstrap(labels, 0, 1)).all()
    assert (draw != bootstrap(labels, 0, 2)).any()
    assert set(left_out(draw, len(labels))) == set(range(len(labels))) - set(draw.tolist())


def test_out_of_bag_answers_are_of_the_runs_that_did_not_see_the_image() -> None:
    draws = [np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([0, 2, 2])]
    answers = [np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]]), np.array([[0.2, 0.8]])]  # of images 2, 2, 1
    seen, mean = out_of_bag(answers, draws, 3)
    assert seen.tolist() == [1, 2]  # image 0 was in every draw
    np.testing.assert_allclose(mean, [[0.2, 0.8], [0.7, 0.3]])


def test_a_bag_of_linear_heads(picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bag"
    result = CliRunner().invoke(
        cli,
        ["ensemble", "--bag", "3", "--data", str(picture_folder), "--strategy", "linear", "image_size=32", "--out",
         str(out)],
    )  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    said = " ".join(result.stdout.split())
    for part in (
        "Bag 3 of 3",
        "Out of bag:",
        "The single run on all training images:",
        "Test accuracy together",
    ):
        assert part in said
    found = open_run(out)
    assert [weight for _, weight in found.folder.members()] == pytest.approx([1 / 3] * 3)
    single = open_run(out / "single")
    settled = yaml.safe_load((single.path / "plan.yaml").read_text())["phases"][0]
    facts = json.loads((single.path / "training.json").read_text())["phases"]["0"]
    draws = []
    for number in "123":
        phase = yaml.safe_load((out / "bags" / number / "plan.yaml").read_text())["phases"][0]
        assert phase["lambdas"] == [facts["lambda"]]  # chosen once, on images without copies
        assert phase["solver"] == settled["solver"] == "logistic"
        rows = list(csv.DictReader((out / "bags" / number / "splits.csv").read_text().splitlines()))
        draws.append([row["image"] for row in rows if row["split"] == "train"])
        assert len(set(draws[-1])) < len(draws[-1]) == single.result["train_n"]
    assert draws[0] != draws[1]
    told = json.loads((out / "bag.json").read_text())["out_of_bag"]
    never = set(draws[0]) & set(draws[1]) & set(draws[2])
    assert told["n"] == single.result["train_n"] - len(never)
    assert told["never_left_out"] == len(never)
    # the answers out of bag, once more from the folders
    train = [row["image"] for row in csv.DictReader((single.path / "splits.csv").read_text().splitlines())
             if row["split"] == "train"]  # fmt: skip
    members = {n: open_run(out / "bags" / n) for n in "123"}
    right = []
    for image in train:
        rows = [
            m.predict([picture_folder / image])[0]
            for n, m in members.items()
            if image not in draws[int(n) - 1]
        ]
        if rows:
            mean = {k: np.mean([r.probabilities[k] for r in rows]) for k in found.classes}  # type: ignore[index]
            right.append(max(mean, key=lambda k: mean[k]) == image.split("/")[0])
    assert told["accuracy"] == pytest.approx(np.mean(right))
