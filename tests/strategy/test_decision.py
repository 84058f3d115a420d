"""Both axes on features made to order, the table, and what is said about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from finetune.features.source import SourceStatistics
from finetune.recipe import Recipe
from finetune.strategy.auto import choose
from finetune.strategy.context import Context
from finetune.strategy.decision import Decision, decide, given
from finetune.strategy.measure import Evidence, measure, pick_stages, sample_indices
from finetune.strategy.outlook import more_images_for
from finetune.strategy.plan import GradientPhase
from finetune.strategy.similarity import similarity_of
from finetune.strategy.table import COLUMNS, ROWS, TEXTBOOK, THRESHOLDS, Thresholds, render
from finetune.zoo.card import ModelCard

CARD = ModelCard(name="net", arch="resnet10t")


def made(
    strengths: Sequence[float], per_class: int, classes: int = 4, seed: int = 0
) -> tuple[list[np.ndarray], np.ndarray]:
    """One tap a strength: how far apart the classes are in it, in noise standard deviations."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    taps = []
    for strength in strengths:
        centres = rng.normal(size=(classes, 12)) * strength / math.sqrt(12)
        taps.append((rng.normal(size=(len(labels), 12)) + centres[labels]).astype(np.float32))
    return taps, labels


NEAR = (0.0, 0.5, 1.5, 3.0, 4.5)
FAR = (2.0, 4.0, 6.0, 4.0, 2.0)


def evidence(strengths: Sequence[float], per_class: int, n: int | None = None, classes: int = 4) -> Evidence:
    taps, labels = made(strengths, per_class, classes)
    counts = None if n is None else [n // classes] * classes
    return measure(taps, labels, classes, n=n, counts=counts)


def test_the_four_corners() -> None:
    corners = {
        ("very little data", "very similar"): evidence(NEAR, 20),
        ("very little data", "very different"): evidence(FAR, 20),
        ("quite a lot of data", "very similar"): evidence(NEAR, 100, n=4000),
        ("quite a lot of data", "very different"): evidence(FAR, 100, n=4000),
    }
    for cell, found in corners.items():
        decision = decide(found)
        assert decision.cell == cell
        assert decision.runner_up not in (None, decision.chosen)
    chosen = [decide(found).chosen for found in corners.values()]
    assert chosen == ["linear", "full", "partial", "full"]


def test_tiny_data_train_heads_only() -> None:
    assert decide(evidence(FAR, 2, classes=6)).chosen in ("linear", "multistage")
    assert decide(evidence(NEAR, 2)).chosen in ("linear", "multistage")


def test_few_images_are_tuned_unless_they_are_near_the_source_beyond_doubt() -> None:
    for m in (3, 5, 9):
        assert decide(evidence(FAR, m)).chosen == "full"
        near = evidence((0.0, 0.4, 1.0, 1.8, 2.8), m)
        doubtful, certain = (decide(replace(near, source_distance=distance)) for distance in (1.15, 1.0))
        assert doubtful.similarity is not None
        assert certain.similarity is not None
        assert 0.6 <= doubtful.similarity < 0.7 <= certain.similarity, (
            m,
            doubtful.similarity,
            certain.similarity,
        )
        assert (doubtful.chosen, certain.chosen) == ("full", "linear")


@pytest.mark.parametrize(
    ("row", "usual"), [("very little data", "linear"), ("quite a lot of data", "partial")]
)
def test_near_but_smaller_than_the_network_knows_them_images_are_tuned(row: str, usual: str) -> None:
    n = 4000 if row == "quite a lot of data" else None
    near = replace(evidence((0.0, 0.4, 1.0, 1.8, 2.8), 20, n), source_distance=1.0)
    for scale, chosen in ((1.0, usual), (0.7, usual), (96 / 224, "full")):
        found = decide(replace(near, scale=scale))
        assert found.cell == (row, "very similar")
        assert found.chosen == chosen
        assert ("images of 43% of the size that it was trained at" in " ".join(found.reasons)) is (
            scale < 0.5
        )


def test_nothing_left_to_win() -> None:
    for per_class, told in (
        (100, "nothing left to win"),
        (4, "errs on 0.0% of images, each of 16 left out in turn"),
    ):
        decision = decide(evidence((0.0, 1.0, 30.0), per_class))
        assert decision.chosen == "linear"
        assert told in " ".join(decision.reasons)


def test_similarity_is_monotone_and_bounded() -> None:
    values = [similarity_of(evidence((*FAR[:4], last), 100))[0] for last in (1.0, 3.0, 5.0, 8.0)]
    assert values == sorted(values)
    assert all(0 <= v <= 1 for v in values)


def test_few_images_do_not_speak_loudly() -> None:
    loud, quiet = (similarity_of(evidence(FAR, m))[0] for m in (200, 2))
    assert abs(quiet - 0.5) < abs(loud - 0.5)


def test_stage_scores_are_chance_normalised() -> None:
    found = evidence((0.0, 8.0), 60)
    assert abs(found.stages[0].value) < 4 * found.stages[0].se
    assert found.last.value > 0.9
    assert found.last.accuracy(4) == pytest.approx(0.75 * found.last.value + 0.25)
    assert found.affinity > 0.7
    assert found.knn > 0.8


def test_curve_rises_and_says_how_many_more() -> None:
    found = evidence((0.5, 2.5), 60)
    assert [n for n, _ in found.curve] == [60, 120, 240]
    assert found.per_doubling is not None
    more = more_images_for(found, 0.05)
    assert more is None or more > 0
    assert more_images_for(evidence(NEAR, 2), 0.05) is None
    # Chance-normalised, of two classes: 0.1 more. The error falls by a factor of .8 with every doubling, then by .98.
    steep = replace(found, num_classes=2, median=10.0, curve=((5, 0.5), (10, 0.6)))
    assert more_images_for(steep, 0.05) == math.ceil(10 * (2 ** (math.log(0.75) / math.log(0.8)) - 1))
    assert more_images_for(replace(steep, curve=((5, 0.5), (10, 0.51))), 0.05) is None


def test_source_statistics_are_evidence_of_distance() -> None:
    taps, labels = made(NEAR, 60)
    source = SourceStatistics.measure(taps, made(NEAR, 60)[0])
    own = measure(taps, labels, 4, source=source)
    moved = measure([tap * 2 for tap in taps], labels, 4, source=source)
    assert own.source_distance == pytest.approx(1.0, abs=0.05)
    assert own.source_share == pytest.approx(0.9, abs=0.05)
    assert moved.source_distance is not None
    assert moved.source_distance > 1.5
    assert similarity_of(moved)[0] < similarity_of(own)[0]
    assert any("feature distance" in words for words in similarity_of(own)[1])
    assert measure(taps[1:], labels, 4, source=source).source_distance is None, (
        "another backbone's statistics"
    )


def test_sample_keeps_every_class() -> None:
    labels = np.array([0] * 9000 + [1] * 3 + [2] * 997)
    chosen = sample_indices(labels, limit=1000)
    assert len(chosen) <= 1000
    assert set(labels[chosen]) == {0, 1, 2}
    assert (sample_indices(labels, limit=1000) == chosen).all()
    assert pick_stages(5, limit=2) == (2, 4)


def test_explanation_has_the_numbers() -> None:
    decision = decide(evidence(FAR, 100, n=4000))
    text = " ".join(decision.reasons)
    for words in (
        "4000 images",
        "median 1000 a class",
        "very different",
        "on images that it has not seen",
        "joined",
    ):
        assert words in text
    tree = decision.to_dict()
    assert tree["cell"] == "quite a lot of data, very different"
    assert tree["likeness"] == "very different"
    assert tree["thresholds"]["different"] == THRESHOLDS.different
    assert tree["thresholds"]["tiny_per_class"] == 3
    assert decide(evidence(FAR, 100), Thresholds(middle=0.1)).to_dict()["thresholds"]["middle"] == 0.1
    assert "images_for_5_points" not in tree["evidence"], "it stands beside it under its documented name"
    assert (
        tree["evidence"]["expected"]["multistage"]["accuracy"]
        > tree["evidence"]["expected"]["linear"]["accuracy"]
    )
    assert len(tree["evidence"]["stages"]) == 5
    little = decide(evidence(FAR, 20))
    assert any("textbook's table would say multistage" in reason for reason in little.reasons)


def test_what_earlier_stages_add_is_the_difference_of_the_figures_shown() -> None:
    found = decide(evidence(FAR, 20, classes=2))
    added = found.expected["multistage"][0] - found.expected["linear"][0]
    assert found.chosen == "full"
    assert f"(multistage) add {100 * added:.1f} points to the linear head" in " ".join(found.reasons)


def test_table_marks_one_cell() -> None:
    for row in ROWS:
        for column in COLUMNS:
            text = render((row, column))
            assert f"> {TEXTBOOK[row, column][1]} <" in text
            assert text.count(" <") == 1
    assert " <" not in render()
    assert decide(evidence(NEAR, 20)).table().count(" <") == 1


def contexts(*keys: str, look: Evidence | None = None) -> Context:
    def measured() -> Evidence:
        if look is None:
            raise AssertionError("only auto measures")
        return look

    return Context(Recipe().override(*keys), (1000,) * 4, CARD, 5, measured)


def rate(ctx: Context) -> float:
    phase = choose(ctx)[0].phases[-1]
    assert isinstance(phase, GradientPhase)
    return phase.lr


def test_auto_has_the_rates_of_the_strategy_it_takes() -> None:
    far, near = evidence(FAR, 100, n=4000), evidence(NEAR, 100, n=4000)
    assert rate(contexts("strategy=auto", look=far)) == rate(contexts("strategy=full"))
    assert rate(contexts("strategy=auto", "train.lr=0.5", look=far)) == 0.5
    assert rate(contexts("strategy=auto", look=near)) == rate(contexts("strategy=partial"))


def test_a_given_strategy_measures_nothing() -> None:
    plan, decision = choose(contexts("strategy=linear"))
    assert plan.strategy == "linear"
    assert isinstance(decision, Decision)
    assert decision.similarity is None
    assert decision == given(contexts(), "linear")
    assert decision.to_dict()["amount"] == "quite a lot"


def test_evidence_is_measured_once() -> None:
    calls = []

    def look() -> Evidence:
        calls.append(1)
        return evidence(NEAR, 20)

    ctx = Context(Recipe(), (20,) * 4, CARD, 5, look)
    choose(ctx)
    choose(ctx)
    assert len(calls) == 1


def test_of_uneven_classes_it_is_told_that_their_shares_are_left_aside() -> None:
    even = evidence(FAR, 20, classes=2)
    (told,) = [reason for reason in decide(even).reasons if "on images that it has not seen" in reason]
    assert "equally frequent" not in told
    (told,) = [
        reason
        for reason in decide(replace(even, imbalance=3.0)).reasons
        if "on images that it has not seen" in reason
    ]
    assert "), taking all classes for equally frequent, on images" in told
