"""k folds: how images are dealt, and the runs on them."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.api import open_run, resume, run
from finetune.data.folds import NEVER, deal, folds_of
from finetune.data.load import load_data, read_folder
from finetune.errors import ConfigError, DataError, Interrupted, RunError
from finetune.events import Listener
from finetune.recipe import DataRecipe, Recipe


@pytest.mark.parametrize("folds", [2, 3, 5, 7])
def test_classes_have_their_share_in_every_fold(folds: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [100, 31, 12]))
    found = deal(labels, np.arange(len(labels)), folds, seed=3)
    for k in range(3):
        counts = np.bincount(found[labels == k], minlength=folds)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(found)
    assert sizes.max() - sizes.min() <= 1
    assert np.array_equal(found, deal(labels, np.arange(len(labels)), folds, seed=3))
    assert not np.array_equal(found, deal(labels, np.arange(len(labels)), folds, seed=4))


def test_groups_are_not_divided_and_classes_are_balanced() -> None:
    rng = np.random.default_rng(1)
    unit = np.repeat(np.arange(60), rng.integers(1, 9, 60))
    labels = (
        unit % 3 + (rng.random(len(unit)) < 0.1)
    ) % 3  # a tenth of the images is of another class than its group
    found = deal(labels, unit, 5, seed=0)[unit]
    assert all(len(set(found[unit == u])) == 1 for u in range(60))
    for k in range(3):
        share = np.bincount(found[labels == k], minlength=5) / (labels == k).sum()
        assert share.max() - share.min() < 0.1


def test_the_only_image_of_a_class_is_never_held_out() -> None:
    found = deal(np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 2, 3, 4, 4]), 3, seed=0)
    assert found.tolist()[3:] == [NEVER, NEVER]
    assert sorted(found.tolist()[:3]) == [0, 1, 2]


def bundles(folder: Path, **keys: Any) -> list[Any]:
    read = read_folder(DataRecipe(path=str(folder)))
    folds = int(keys.get("folds", 4))
    return [read.split(DataRecipe(**{"folds": folds, "fold": k, **keys}), 7) for k in range(1, folds + 1)]


def names(part: Any) -> list[str]:
    return [part.name(i) for i in range(len(part))]


def test_every_image_is_tested_once_and_never_trained_on_then(picture_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(picture_folder, tmp_path / "d")
    shutil.copy(tmp_path / "d" / "disc" / "00.png", tmp_path / "d" / "disc" / "copy.png")
    found = bundles(tmp_path / "d")
    assert Counter(name for b in found for name in names(b.test)) == Counter(
        p.relative_to(tmp_path / "d").as_posix() for p in (tmp_path / "d").rglob("*.png")
    )
    for b in found:
        assert not {*names(b.test)} & {*names(b.train), *names(b.val)}
        assert len(b.train) + len(b.val) + len(b.test) == 37
        assert len(b.val) == round(0.15 * (37 - len(b.test)))
        assert ("disc/00.png" in names(b.test)) == ("disc/copy.png" in names(b.test))
        assert any("of 4 by class with seed 7 is the test set" in note for note in b.notes)
    again = bundles(tmp_path / "d")
    assert [names(b.test) for b in again] == [names(b.test) for b in found]


def test_given_splits_join_and_a_given_test_set_stays_out(picture_folder: Path, tmp_path: Path) -> None:
    for split, numbers in {"train": range(6), "val": range(6, 9), "test": range(9, 12)}.items():
        for kind in ("across", "disc"):
            (tmp_path / split / kind).mkdir(parents=True)
            for i in numbers:
                shutil.copy(picture_folder / kind / f"{i:02d}.png", tmp_path / split / kind)
    found = bundles(tmp_path, folds=3)
    tested = {name for b in found for name in names(b.test)}
    assert len(tested) == 18
    assert {name.split("/")[0] for name in tested} == {"train", "val"}
    assert any("test takes no part in it" in note for note in found[0].notes)
    grouped = read_folder(DataRecipe(path=str(tmp_path), group_by=r"/(\d\d)[.]"))
    parts = [grouped.split(DataRecipe(folds=3, fold=k), 0) for k in (1, 2, 3)]
    of = [{name[-6:-4] for name in names(b.test)} for b in parts]
    assert not of[0] & of[1]
    assert len(of[0] | of[1] | of[2]) == 9


def test_other_tasks(picture_folder: Path, tmp_path: Path) -> None:
    rows = sorted(picture_folder.rglob("*.png"))
    table = tmp_path / "t.csv"
    table.write_text("path,label\n" + "".join(f"{p},{'a|b' if i % 3 else 'a'}\n" for i, p in enumerate(rows)))
    several = read_folder(DataRecipe(path=str(table)))
    parts = [several.split(DataRecipe(folds=3, fold=k), 0) for k in (1, 2, 3)]
    assert [int(b.test.targets[:, 1].sum()) for b in parts] == [8, 8, 8]
    table.write_text("path,label\n" + "".join(f"{p},{i / 7}\n" for i, p in enumerate(rows)))
    numbers = read_folder(DataRecipe(path=str(table)))
    means = [float(numbers.split(DataRecipe(folds=3, fold=k), 0).test.targets.mean()) for k in (1, 2, 3)]
    assert max(means) - min(means) < 0.6  # of numbers up to 5


def test_bad_folds(picture_folder: Path) -> None:
    for keys, message in (
        ({"folds": 1}, "data.folds: must be greater than or equal to 2"),
        ({"fold": 1}, "data.fold: must be left out where data.folds is. Got 1"),
        ({"folds": 3, "fold": 4}, "data.fold: must be 1 to 3. Got 4"),
    ):
        with pytest.raises(ConfigError, match=message):
            Recipe.from_mapping({"data": keys})
    with pytest.raises(
        ConfigError, match="data.fold must be given beside data.folds here. Got None.*data.fold=1"
    ):
        load_data(DataRecipe(path=str(picture_folder), folds=3), 0)
    read = read_folder(DataRecipe(path=str(picture_folder), group_by=r"^(\w)"))
    with pytest.raises(
        DataError, match="data.folds must be at most the number of groups that can be held out. Got 3"
    ):
        read.split(DataRecipe(folds=3, fold=1), 0)
    one = next(iter(read.given.values()))
    with pytest.raises(
        DataError, match="at most the number of images that can be held out. Got 40.*4 folds would be"
    ):
        folds_of(one, 40, 0)


def recipe(picture_folder: Path, out: Path, **keys: Any) -> dict[str, Any]:
    data = {"path": str(picture_folder), "image_size": 32, "folds": 3}
    return {"strategy": "linear", "out": str(out), "data": data, **keys}


class StopAfter(Listener):
    """Stops the run when a fold is done."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_message(self, text: str) -> None:
        if text.startswith(f"Fold {self.number} of"):
            raise KeyboardInterrupt


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_of_all_folds(picture_folder: Path, tmp_path: Path) -> None:
    done = run(recipe(picture_folder, tmp_path / "cv"), figures=False)
    each = [open_run(done.path / f"fold-{k}") for k in (1, 2, 3)]
    summary, accuracies = done.result["folds"], [one.result["test"]["accuracy"] for one in each]
    assert summary["each"] == accuracies
    assert summary["mean"] == pytest.approx(np.mean(accuracies))
    assert summary["std"] == pytest.approx(np.std(accuracies, ddof=1))
    said = rows(done.path / "predictions.csv")
    assert len({row["image"] for row in said}) == len(said) == done.result["test"]["n"] == 36
    right = np.mean([row["label"] == row["predicted"] for row in said])
    assert done.result["test"]["accuracy"] == pytest.approx(right)
    low, high = done.result["test"]["interval"]
    assert low < right <= high
    fold_of = {row["image"]: row["fold"] for row in rows(done.path / "folds.csv")}
    for number, one in enumerate(each, 1):
        mine = {row["image"] for row in rows(one.path / "predictions.csv")}
        assert mine == {name for name, fold in fold_of.items() if fold == str(number)}
        assert one.recipe.data.fold == number
    images = [picture_folder / "disc" / "00.png", picture_folder / "down" / "00.png"]
    mean = np.mean(
        [[[a.probabilities[c] for c in one.classes] for a in one.predict(images)] for one in each], 0
    )
    ours = [[answer.probabilities[c] for c in done.classes] for answer in done.predict(images)]
    assert np.allclose(ours, mean, atol=1e-5)
    assert resume(done.path).result == done.result
    # A fold alone is the run that the summary holds.
    alone = run(recipe(picture_folder, tmp_path / "two"), "data.fold=2", figures=False)
    assert (alone.path / "predictions.csv").read_text() == (each[1].path / "predictions.csv").read_text()


def test_a_stopped_run_of_all_folds_goes_on(picture_folder: Path, tmp_path: Path) -> None:
    whole = run(recipe(picture_folder, tmp_path / "whole"), figures=False)
    with pytest.raises(Interrupted, match=r"Stopped in fold 2 of 3. Go on with: finetune resume .*cut$"):
        run(recipe(picture_folder, tmp_path / "cut"), listener=StopAfter(2), figures=False)
    assert not (tmp_path / "cut" / "fold-3").exists()
    first = (tmp_path / "cut" / "fold-1" / "result.json").read_bytes()
    (tmp_path / "cut" / "fold-2" / "result.json").unlink()  # as if stopped before its end
    with pytest.raises(RunError, match="did not finish. Go on with: finetune resume"):
        open_run(tmp_path / "cut")
    done = resume(tmp_path / "cut", figures=False)
    assert (tmp_path / "cut" / "fold-1" / "result.json").read_bytes() == first
    for name in ("predictions.csv", "folds.csv"):
        assert (done.path / name).read_text() == (whole.path / name).read_text()
    assert json.loads((done.path / "ensemble.json").read_text())["kind"] == "folds"
    (done.path / "result.json").unlink()
    (done.path / "fold-1" / "predictions.csv").write_text("image,label\n")
    with pytest.raises(
        RunError, match="must be the answers to the images of its fold.*Delete .*fold-1, then: fine"
    ):
        resume(done.path, figures=False)


def test_what_cannot_be_folded(picture_folder: Path, tmp_path: Path) -> None:
    bundle = load_data(DataRecipe(path=str(picture_folder)), 0)
    out = tmp_path / "cv"
    with pytest.raises(
        ConfigError, match="data.folds must be left out, or given with data.fold, where the images are"
    ):
        run(recipe(picture_folder, out), data=bundle, figures=False)
    with pytest.raises(DataError, match="does not exist"):
        run(recipe(tmp_path / "none", out), figures=False)
    assert not out.exists()


def test_the_command_line(picture_folder: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from finetune.cli.app import cli

    words = ["run", "--data", str(picture_folder), "--folds", "2", "--strategy", "linear", "image_size=32", "--out",
             str(tmp_path / "cv")]  # fmt: skip
    said = CliRunner().invoke(cli, words)
    assert said.exit_code == 0, (said.output, said.exception)
    text = " ".join(said.output.split())
    assert "Fold 1 of 2: accuracy" in text
    assert "Mean of 2 folds: accuracy" in text
    assert text.count("Test accuracy") == 1
    refused = CliRunner().invoke(cli, [*words[:4], "1"])
    assert refused.exit_code == 2
    assert "data.folds: must be greater than or equal to 2" in refused.output
