from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import ConfigError
from finetune.recipe import Recipe, known_keys


def test_round_trip_through_yaml(tmp_path: Path) -> None:
    recipe = Recipe().override("epochs=5", "data.path=photos", "lr=1e-3", "strategy=full", seed=3)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert Recipe.load(tmp_path / "r.yaml") == recipe
    assert (recipe.train.epochs, recipe.train.lr, recipe.seed, recipe.strategy) == (5, 1e-3, 3, "full")


def test_all_problems_at_once_with_nearest_keys(tmp_path: Path) -> None:
    (tmp_path / "flowers.yaml").write_text("train: {epochz: 3, lr: -0.1}\nstrateg: full\n")
    with pytest.raises(ConfigError) as caught:
        Recipe.load(tmp_path / "flowers.yaml")
    text = str(caught.value)
    assert "3 problems in flowers.yaml" in text
    assert 'train.epochz: unknown key. Did you mean "epochs"?' in text
    assert "train.lr: must be greater than 0. Got -0.1 instead." in text
    assert 'strateg: unknown key. Did you mean "strategy"?' in text


def test_override_with_a_typo_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match='epocs: unknown key. Did you mean "epochs"'):
        Recipe().override("epocs=3")


def test_override_without_equals_sign() -> None:
    with pytest.raises(ConfigError, match="of the form key=value"):
        Recipe().override("epochs")


def test_union_fields_name_the_key_once() -> None:
    with pytest.raises(ConfigError, match=r"threads: must be") as caught:
        Recipe().override("threads=many")
    assert "literal[" not in str(caught.value)


def test_a_section_replaced_by_a_scalar() -> None:
    with pytest.raises(ConfigError, match="train: must be"):
        Recipe.from_mapping({"train": 3})


@pytest.mark.parametrize(("text", "message"), [
    ("a: [1, 2\nb: }", "line 2 is not valid YAML"),
    ("- a\n- b\n", "must be a mapping of recipe keys. Got list"),
])  # fmt: skip
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Recipe.load(tmp_path / "r.yaml")


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist. `finetune recipe ls`"):
        Recipe.load(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="cannot be read"):
        Recipe.load(tmp_path / "b.yaml")


def test_every_key_is_documented() -> None:
    assert [key for key, field in known_keys(Recipe).items() if not field.description] == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("threads=0", r"threads: must be greater than or equal to 1 or 'auto'\. Got 0"),
        ("data.workers=-1", r"data\.workers: must be greater than or equal to 1 or 'auto'\. Got -1"),
        ("seed=99999999999999999999", r"seed: must be less than 4294967296"),
        ("train.weight_decay=.inf", r"train\.weight_decay: must be a finite number\. Got inf"),
        (
            "train.batch_size=0",
            r"^recipe: train\.batch_size: must be greater than or equal to 1 or 'auto'\. Got 0",
        ),
        ("data.path=''", r"data\.path: must name a folder, a table, an archive or shards\. Got ''"),
        ("train=5", r"train: is a section\. Give one of its keys, such as train\."),
        ("=3", r"'=3' must be of the form key=value"),
    ],
)
def test_values_out_of_range(words: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Recipe().override(words)


def test_a_key_of_another_section_is_pointed_to() -> None:
    with pytest.raises(ConfigError, match=r'epohcs: unknown key\. Did you mean "train\.epochs"'):
        Recipe.from_mapping({"epohcs": 3})


def test_an_unknown_strategy_is_one_of_the_problems() -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.from_mapping({"strategy": "linaer", "epohcs": 3}, "r.yaml", ["auto", "linear"])
    assert "2 problems in r.yaml" in str(caught.value)
    assert "strategy must be one of auto, linear. Got 'linaer' instead. Did you mean \"linear\"?" in str(
        caught.value
    )


def test_a_learning_rate_that_no_float_holds() -> None:
    with pytest.raises(
        ConfigError, match=r"train.lr: must be less than or equal to 1000. Got 1e\+40 instead"
    ):
        Recipe().override("train.lr=1e40")


def test_a_bare_key_that_two_sections_have_is_asked_back() -> None:
    with pytest.raises(
        ConfigError, match=r"folds: may mean data\.folds or probe\.folds\. Write one of them out\."
    ):
        Recipe().override("folds=3")


def test_a_section_that_is_no_mapping() -> None:
    with pytest.raises(
        ConfigError, match=r"^recipe: data: must be a mapping of keys\. Got 'photos' instead\.$"
    ):
        Recipe.from_mapping({"data": "photos"})


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("strategy: linear\ntrain:\n  epochs: 3\n  lr: 1\n  epochs: 4\n")
    with pytest.raises(ConfigError, match=r"line 5 is not valid YAML: the key 'epochs' is given twice\."):
        Recipe.load(tmp_path / "r.yaml")


def test_all_strategies_are_named_where_one_is_chosen() -> None:
    from finetune.cli.run import run
    from finetune.strategy import STRATEGIES

    (option,) = [parameter for parameter in run.params if parameter.name == "strategy"]
    for text in (Recipe.model_fields["strategy"].description, getattr(option, "help", None)):
        named = set(str(text).replace(" or ", ", ").replace(" (default)", "").rstrip(".").split(", "))
        assert named == set(STRATEGIES.names())
