"""A digest of a recipe is of no use to a stranger without the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import row

from benchmarks.regret.identity import digest_of, keys_of
from benchmarks.regret.ledger import read_ledgers
from benchmarks.regret.recipes import keep_recipe, read_recipes, recipes_path
from benchmarks.regret.report import basis
from benchmarks.regret.results import collect
from finetune.errors import RunError
from finetune.recipe import Recipe

LEDGER = Path(__file__).parents[2] / "benchmarks" / "regret.csv"


def recipe(*keys: str) -> Recipe:
    return Recipe.from_mapping({"backbone": "embedded"}).override(*keys)


def test_keys_give_the_digest_back() -> None:
    made = recipe("train.refit=false", "data.image_size=48", "seed=7", "train.save_every=5", "threads=2")
    assert keys_of(made) == "data.image_size=48 train.refit=false"
    assert digest_of(recipe(*keys_of(made).split())) == digest_of(made)
    assert keys_of(recipe()) == "nothing but defaults"


def test_recipes_are_merged_and_sorted(tmp_path: Path) -> None:
    csv = tmp_path / "r.csv"
    assert read_recipes([csv]) == {}
    keep_recipe(csv, "b0", "train.epochs=1")
    keep_recipe(csv, "12345678", "train.epochs=2")
    assert read_recipes([csv]) == {"12345678": "train.epochs=2", "b0": "train.epochs=1"}
    text = recipes_path(csv).read_text()
    assert text.index("12345678") < text.index("b0")
    before = recipes_path(csv).stat().st_mtime_ns
    keep_recipe(csv, "b0", "train.epochs=1")
    assert recipes_path(csv).stat().st_mtime_ns == before
    other = tmp_path / "s.csv"
    keep_recipe(other, "c0", "train.epochs=3")
    assert set(read_recipes([csv, other])) == {"12345678", "b0", "c0"}
    recipes_path(csv).write_text("- a list")
    with pytest.raises(RunError, match="a mapping from recipe digests"):
        read_recipes([csv])


def test_the_report_tells_the_recipe_of_each_backbone() -> None:
    rows = [row("a", "5", seed, "linear", 0.5, recipe="r1") for seed in (0, 1)]
    keys = {"r1": "data.image_size=48"}
    assert "- Recipe r1 (`data.image_size=48`), code 0." in basis(collect(rows, {}, {}), keys)
    rows += [row("a", "5", seed, "linear", 0.5, recipe="r2", backbone="other@2") for seed in (0, 1)]
    said = basis(collect(rows, {}, {}), keys)
    assert "- net@1: recipe r1 (`data.image_size=48`), code 0." in said
    assert "- other@2: recipe r2 (its keys were not kept), code 0." in said


def test_every_digest_of_the_committed_rows_is_known() -> None:
    rows, _ = read_ledgers([LEDGER])
    kept = read_recipes([LEDGER])
    assert {r["recipe"] for r in rows} <= set(kept)
    assert {digest_of(recipe(*keys.split())) for keys in kept.values()} == set(kept)
