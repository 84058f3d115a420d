"""Real rows on small real images: what a cell measures is what the library does."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.regret.__main__ import cells_of, main, parser
from benchmarks.regret.arms import AUTO, choose_arms
from benchmarks.regret.cases import make_case
from benchmarks.regret.ledger import read_ledgers
from benchmarks.regret.measure import Bench
from benchmarks.regret.order import Cell
from benchmarks.regret.recipes import read_recipes
from finetune.api import run

KEYS = ("data.image_size=32", "train.epochs=1", "train.precision=fp32", "train.channels_last=false")


@pytest.fixture
def bench() -> Bench:
    return Bench("embedded", KEYS, arms={arm.name: arm for arm in choose_arms()})


def test_linear_is_the_librarys_linear(bench: Bench, picture_folder: Path, tmp_path: Path) -> None:
    cell = Cell(make_case(picture_folder, {}), 5, 1, "linear", "-")
    row, record = bench.measure(cell)
    assert record is None
    keys = {"data": {"path": str(picture_folder), "image_size": 32, "limit_per_class": 5}, "seed": 1}
    own = run({**keys, "strategy": "linear", "out": str(tmp_path / "r")}, figures=False).result
    assert row["accuracy"] == pytest.approx(own["test"]["accuracy"], abs=1e-5)
    assert (row["train_n"], row["val_n"], row["test_n"]) == (own["train_n"], own["val_n"], own["test"]["n"])
    assert (row["train_n"] + row["val_n"], row["classes"]) == (15, 3)  # five labelled images a class in all
    assert 0 <= row["val_accuracy"] <= 1
    assert row["chosen"] == "linear"


def test_a_data_set_is_decoded_once_and_its_test_set_stays(bench: Bench, picture_folder: Path) -> None:
    case = make_case(picture_folder, {})
    bundles = [bench.bundle(Cell(case, size, 0, "linear", "-")) for size in (2, 5, None)]
    assert len({id(bench.reading(case, bench.recipe)) for _ in bundles}) == 1
    names = [[b.test.name(i) for i in range(len(b.test))] for b in bundles]
    assert names[0] == names[1] == names[2]
    assert [len(b.train) + len(b.val) for b in bundles[:2]] == [6, 15]
    assert bench.bundle(Cell(case, None, 0, "partial", "1")) is bundles[2]


def test_arms_train_on_all_labelled_images_in_the_end(bench: Bench, picture_folder: Path) -> None:
    case = make_case(picture_folder, {})
    seen: list[tuple[str, list[str]]] = []
    inner = bench._run

    def spy(recipe: object, bundle: object, plan: object, out: Path) -> object:
        done = inner(recipe, bundle, plan, out)  # type: ignore[arg-type]
        seen.append((out.name, [getattr(p, "fit_on", "") for p in plan.phases]))  # type: ignore[attr-defined]
        return done

    bench._run = spy  # type: ignore[method-assign]
    row, _ = bench.measure(Cell(case, 5, 0, "plain-full", "3"))
    assert seen == [("first", ["train"]), ("second", ["train+val"])]
    assert row["lr"] == "3"
    assert math.isfinite(row["val_loss"])
    assert row["trained_parameters"] > 1_000_000


def test_auto_leaves_its_evidence(bench: Bench, picture_folder: Path) -> None:
    row, record = bench.measure(Cell(make_case(picture_folder, {}), 5, 0, AUTO, "-"))
    assert record is not None
    decision = json.loads(json.dumps(record, default=float))["decision"]
    assert row["chosen"] == decision["chosen"]
    assert decision["evidence"]["num_classes"] == 3
    assert len(record["logme_stages"]) == len(decision["evidence"]["stages"])
    assert np.isfinite(record["logme"])
    assert row["decide_seconds"] >= 0
    assert json.loads(row["expected"]).keys() >= {"linear", "multistage"}


def test_keys_tell_weights_and_recipes_apart(bench: Bench, picture_folder: Path) -> None:
    cell = Cell(make_case(picture_folder, {}), 5, 0, "linear", "-")
    key = bench.key(cell)
    assert key["backbone"].startswith("embedded@")
    other = Bench("embedded", (*KEYS, "train.weight_decay=0.1"))
    assert other.key(cell)["recipe"] != key["recipe"]
    assert other.key(cell)["backbone"] == key["backbone"]
    same = Bench("embedded", (*KEYS, "data.workers=1", "threads=1", "train.save_every=9"))
    assert same.key(cell) == key
    import torch

    with torch.no_grad():
        next(iter(other.backbone.parameters())).add_(1.0)
    del other.__dict__["network"]
    assert other.key(cell)["backbone"] != key["backbone"]


def test_the_command_measures_and_goes_on(
    picture_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.csv"
    asked = ["--root", str(picture_folder.parent), "--data", "pictures", "--arms", "linear", "--sizes", "5",
             "--seeds", "1", "--pass", "coarse", "--no-auto", "--set", *KEYS, "--out", str(out)]  # fmt: skip
    assert main(["plan", *asked]) == 0
    assert "1 of 1 rows are to be measured." in capsys.readouterr().out
    assert not out.exists()
    assert main(["run", *asked]) == 0
    rows, _ = read_ledgers([out])
    assert read_recipes([out]) == {rows[0]["recipe"]: " ".join(KEYS)}
    assert [(r["data"], r["size"], r["arm"], r["status"]) for r in rows] == [
        ("pictures", "5", "linear", "ok")
    ]
    assert main(["run", *asked]) == 0
    assert "1 rows planned, 1 of them measured before." in capsys.readouterr().out


def test_the_source_is_no_target_and_dials_are(picture_folder: Path) -> None:
    base = [
        "plan",
        "--root",
        str(picture_folder.parent),
        "--data",
        "pictures",
        "--arms",
        "linear",
        "--seeds",
        "1",
    ]
    dialled = cells_of(parser().parse_args([*base, "--dials", "pictures"]))
    assert {c.case.name for c in dialled} == {"pictures"} | {
        f"pictures~{d}" for d in ("inverted", "edges", "blurred", "shuffled", "hue")}  # fmt: skip
    assert {c.case.family for c in dialled} == {"pictures"}
    without = cells_of(parser().parse_args([*base, "--dials", "pictures"]), source="pictures")
    assert "pictures" not in {c.case.name for c in without}
