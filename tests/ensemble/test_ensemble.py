"""Ensembles of finished runs: answers, folders that can be moved, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from finetune import Classifier
from finetune.api import open_run
from finetune.cli.app import cli
from finetune.ensemble.build import ensemble
from finetune.ensemble.candidates import merged_rows, read_candidates
from finetune.errors import ConfigError, DataError, RunError
from finetune.evaluation.ensembles import forward_selection

Make = Callable[..., Path]


def call(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(w) for w in words], prog_name="finetune")
    assert result.exit_code == code, (result.output, result.exception)
    return " ".join((result.stdout + result.stderr).split())


def test_the_mean_answers_wherever_the_folder_is(trained: Make, picture_folder: Path, tmp_path: Path) -> None:
    runs = [trained(0), trained(1)]
    said = call("ensemble", *runs, "--out", tmp_path / "both")
    assert "Test accuracy together" in said
    assert "95% interval" in said
    kept = json.loads((tmp_path / "both" / "ensemble.json").read_text())
    assert [(m["weight"], m["run"]) for m in kept["members"]] == [(0.5, str(run)) for run in runs]
    for member, run in zip(kept["members"], runs, strict=True):
        test = open_run(run).result["test"]
        assert member["accuracy"] == test["accuracy"]
        assert member["interval"] == test["interval"]
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    shutil.move(tmp_path / "both", moved)
    images = sorted(picture_folder.rglob("*.png"))[::7]
    parts = [[a.probabilities for a in open_run(run).predict(images)] for run in runs]
    for answer, first, second in zip(open_run(moved).predict(images), *parts, strict=True):
        for name, value in (answer.probabilities or {}).items():
            assert value == pytest.approx((first[name] + second[name]) / 2, abs=1e-6)  # type: ignore[index]
    model = Classifier.load(moved)
    assert model.predict_proba(images).shape == (len(images), 3)
    assert "disc" in call("predict", moved, picture_folder / "disc" / "00.png")
    assert "36 images" in call("evaluate", moved, "--data", picture_folder)
    assert "is an ensemble of 2 networks" in call("export", moved, "--out", tmp_path / "x", code=2)
    assert "had finished already" in call("resume", moved)


def test_greedy_takes_the_weights_of_the_selection(trained: Make, tmp_path: Path) -> None:
    runs = [trained(0), trained(1), trained(2, lr=0.5, head_lr=5.0, clip_grad=None, safety_net=False)]
    found = ensemble(runs, greedy=True, out=tmp_path / "e")
    candidates = read_candidates(runs)
    from finetune.ensemble.candidates import own_images

    val = own_images(candidates).val
    expected = forward_selection([c.run.probabilities(val) for c in candidates], val.labels)
    kept = {m["run"]: m["weight"] for m in json.loads((found.path / "ensemble.json").read_text())["members"]}
    assert kept == pytest.approx({str(r): w for r, w in zip(runs, expected, strict=True) if w})
    assert len(found.result["test"]["members"]) == 3  # those that were left out were tested too
    assert found.result["strategy"] == "ensemble"


def test_images_that_taught_a_member_do_not_test_it(
    trained: Make, finished_run: Path, picture_folder: Path, tmp_path: Path
) -> None:
    runs = [trained(0), trained(0, split_seed=9)]
    with pytest.raises(
        RunError, match=r"saw \d of the 5 test images in training or validation \(the first: '"
    ):
        ensemble(runs, out=tmp_path / "e")
    assert not (tmp_path / "e").exists()
    with pytest.raises(RunError, match=r"saw \d+ of the 36 test images"):  # the whole folder, under --data
        ensemble(runs, out=tmp_path / "e", data=picture_folder)
    # a linear head takes the validation images in, so it may be tested but not chosen on them
    ensemble([trained(0), finished_run], out=tmp_path / "fine")
    with pytest.raises(RunError, match=r"was fitted on 5 of the 5 images to choose on .* train\.refit=false"):
        ensemble([trained(0), finished_run], greedy=True, out=tmp_path / "e")


def test_other_images_to_test_and_to_choose_on(trained: Make, finished_run: Path, tmp_path: Path) -> None:
    from tests.conftest import write_pictures

    other = write_pictures(tmp_path / "other", per_class=4, side=40)
    runs = [trained(0), trained(0, split_seed=9), finished_run]
    found = ensemble(runs, greedy=True, out=tmp_path / "e", data=other, select=other)
    assert found.result["test"]["n"] == 12
    rows = merged_rows(read_candidates(runs))
    splits = {row[0]: row[2] for row in rows}
    assert len(splits) == len(rows) == 36
    trained_on = {row[0] for c in read_candidates(runs) for row in c.rows if row[2] == "train"}
    assert {name for name, split in splits.items() if split == "train"} == trained_on


def test_what_cannot_be_put_together(trained: Make, tmp_path: Path) -> None:
    one = trained(0)
    with pytest.raises(ConfigError, match=r"must be at least 2 finished runs\. Got 1 instead"):
        ensemble([one])
    with pytest.raises(ConfigError, match=r"must be different runs\. Got .* more than once"):
        ensemble([one, one])
    with pytest.raises(RunError, match="does not exist"):
        ensemble([one, tmp_path / "none"])
    other = Path(shutil.copytree(one, tmp_path / "other"))
    tree = json.loads((other / "result.json").read_text())
    (other / "result.json").write_text(json.dumps({**tree, "classes": ["across", "disc", "up"]}))
    with pytest.raises(
        RunError, match=r"The classes of run '.*other' must be those of .* \(across, disc, down\)"
    ):
        ensemble([one, other])
    both = ensemble([one, trained(1)], out=tmp_path / "both").path
    with pytest.raises(RunError, match="must be of a single network. Got an ensemble"):
        ensemble([one, both])
    with pytest.raises(RunError, match="The output folder .* must be a new or empty folder"):
        ensemble([one, trained(1)], out=both)
    (both / "ensemble.json").write_text('{"members": [{"model": "members/1"}]}')
    with pytest.raises(RunError, match=r"ensemble\.json cannot be read: KeyError: 'weight'"):
        open_run(both)
    old = Path(shutil.copytree(one, tmp_path / "old"))
    rows = (old / "splits.csv").read_text().splitlines()
    (old / "splits.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows) + "\n")
    with pytest.raises(RunError, match=r"must be a table with the fingerprint of every image"):
        ensemble([trained(1), old], out=tmp_path / "e")
    with pytest.raises(DataError, match="--data must be an existing folder, table or archive"):
        ensemble([one, trained(1)], out=tmp_path / "e", data=tmp_path / "nothing")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "b", "--greedy", "--soup", "greedy"], r"--greedy and --soup must be given one at a time"),
        (["a", "b", "--select", "x"], "--select must be given with --greedy or --soup greedy, which choose"),
        (["a", "b", "--strategy", "linear"], "--strategy must be given with --bag, which trains"),
        (["--bag", "1", "--data", "x"], "--bag must be at least 2 runs. Got 1"),
        (["--bag", "3"], "data.path must be a folder with one sub-folder per class"),
        (["--bag", "3", "--data", "x", "probe.solver=lda"], "probe.solver must be logistic in a bag"),
    ],
)
def test_options_that_make_no_sense(words: list[str], said: str) -> None:
    assert said in call("ensemble", *words, code=2)


def test_members_of_equal_weights_are_plain_probabilities(trained: Make, tmp_path: Path) -> None:
    found = ensemble([trained(0), trained(1)], out=tmp_path / "e")
    candidates = read_candidates([trained(0), trained(1)])
    from finetune.ensemble.candidates import own_images

    test = own_images(candidates).test
    mean = np.mean([c.run.probabilities(test) for c in candidates], axis=0)
    np.testing.assert_allclose(found.probabilities(test), mean, atol=1e-6)
    assert found.result["test"]["accuracy"] == np.mean(mean.argmax(1) == test.labels)
