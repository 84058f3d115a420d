"""What is said where the labels carry nothing, or where nothing is known about more images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from finetune.strategy.decision import decide
from finetune.strategy.measure import Evidence, Score, measure
from finetune.strategy.measure_values import measure_values
from finetune.strategy.outlook import more_images_for, noise, unknown
from finetune.task import TASKS


def drawn(strength: float, per_class: int, stages: int = 3) -> Evidence:
    """Two classes that lie ``strength`` standard deviations apart at every stage."""
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], per_class)
    taps = [
        (rng.normal(size=(len(labels), 8)) + strength * labels[:, None]).astype(np.float32)
        for _ in range(stages)
    ]
    return measure(taps, labels, 2)


def test_labels_that_carry_nothing_are_told_and_nothing_is_built_on_them() -> None:
    noise_only = drawn(0.0, 16)
    assert noise_only.guessing
    lucky = replace(noise_only, curve=((8, -0.3), (16, -0.2), (32, 0.1)), concat=Score(0.1, 0.17))
    decision = decide(lucky)
    said = " ".join(decision.reasons)
    assert "No stage tells the classes from guessing: the best has" in said
    assert "where chance is 50.0%" in said
    assert "5 points" not in said
    assert " add " not in said
    assert more_images_for(lucky) is None
    assert "no stage tells the classes from guessing" in str(unknown(lucky))


@pytest.mark.parametrize("strength", [0.4, 3.0])
def test_labels_that_carry_something_are_not_called_guessing(strength: float) -> None:
    found = drawn(strength, 100)
    assert not found.guessing
    assert not any("guessing" in reason for reason in decide(found).reasons)


def test_earlier_stages_add_something_only_beyond_the_error_of_the_difference() -> None:
    found = replace(drawn(0.5, 20), stages=(Score(0.2, 0.1), Score(0.4, 0.1), Score(0.4, 0.1)))
    found = replace(found, source_distance=3.0)
    for joined, said in (
        (0.70, "add 15.0 points to the linear head."),
        (0.50, "do not help the linear head beyond the noise."),
        (0.30, "do not help the linear head."),
    ):
        decision = decide(replace(found, concat=Score(joined, 0.1)))
        assert decision.chosen == "full"
        assert any(
            reason.endswith(f"earlier stages alone (multistage) {said}") for reason in decision.reasons
        )


def test_what_is_not_known_of_more_images_says_why() -> None:
    base = replace(drawn(1.0, 50), stages=(Score(0.5, 0.05),) * 3, concat=Score(0.5, 0.05))
    small, large = base.measured // 2, base.measured
    for curve, said in (
        (((large, 0.5),), "too few images to see a trend"),
        (((small, 0.5), (large, 0.5)), "more hardly helped the linear head here"),
        (
            ((small, 0.45), (large, 0.5)),
            "100 instead of 50 gave the linear head 2.5 points, within the noise",
        ),
    ):
        found = replace(base, curve=curve)
        assert more_images_for(found) is None
        assert said in str(unknown(found))
        assert not any("5 points more" in reason for reason in decide(found).reasons)
    steep = replace(base, curve=((small, 0.3), (large, 0.5)))
    assert more_images_for(steep)
    assert unknown(steep) is None
    assert noise(steep) == pytest.approx(2 * np.hypot(*np.sqrt(np.array([0.65 * 0.35, 0.75 * 0.25]) / 100)))
    solved = replace(base, stages=(Score(0.96, 0.02),) * 3, curve=((small, 0.95), (large, 0.96)))
    assert "less than 5 points left" in str(unknown(solved))


def test_one_image_a_class_knows_no_trend() -> None:
    taps = [np.eye(3, 8, dtype=np.float32)]
    assert "too few images" in str(unknown(measure(taps, np.arange(3), 3)))


@pytest.mark.parametrize(("task", "said"), [
    ("multi-label", "No stage ranks the labels better than guessing"),
    ("regression", "No stage says more of the numbers than their mean: the best has R2"),
])  # fmt: skip
def test_other_tasks_say_it_in_their_words(task: str, said: str) -> None:
    rng = np.random.default_rng(1)
    taps = [rng.normal(size=(40, 8)).astype(np.float32) for _ in range(2)]
    targets = rng.integers(0, 2, (40, 2)) if task == "multi-label" else rng.normal(size=(40, 1))
    found = measure_values(TASKS[task], taps, targets, targets, np.arange(40) % 10)
    assert found.guessing
    assert said in " ".join(decide(found).reasons)
    assert unknown(found) is None
