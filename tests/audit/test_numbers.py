"""Wrong numbers: planted ones, rounding, heavy blunders that hide others, and where nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.audit.numbers import SPREADS, Numbers, rounding, said_of_numbers, suspected_numbers
from finetune.data.load import from_datasets
from finetune.recipe import DataRecipe


def numbered(n: int, seed: int, noise: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Features and a number around 50 that is linear in them but for the noise; its standard deviation is about 11."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (n, 32)).astype(np.float32)
    return x, (50 + x @ rng.normal(0, 2, 32) + rng.normal(0, noise, n)).astype(np.float32)


def test_what_is_said_is_ridge_leave_one_out() -> None:
    """Against leaving each image out and solving again, at the strength that was chosen."""
    from finetune.audit.views import standardised
    from finetune.features.ridge import fit_ridge_values

    x, y = numbered(40, 0)
    said = said_of_numbers([x], y)
    assert said is not None
    z = standardised([x], np.arange(40))
    assert z is not None
    import torch

    scaled = (y.astype(np.float64) - y.astype(np.float64).mean()) / y.astype(np.float64).std()
    strength = fit_ridge_values(z, torch.from_numpy(scaled[:, None])).lambda_
    for i in (0, 7, 39):
        others = np.arange(40) != i
        a, b = z[others].astype(np.float64), scaled[others]
        centre, mean = a.mean(axis=0), b.mean()
        a = a - centre
        # The penalty is 40 lambda, also without one image.
        weight = np.linalg.solve(a.T @ a + 40 * strength * np.eye(32), a.T @ (b - mean))
        expected = ((z[i] - centre) @ weight + mean) * y.astype(np.float64).std() + y.astype(
            np.float64
        ).mean()
        assert said[i] == pytest.approx(expected, abs=1e-3)


def test_planted_numbers_are_found() -> None:
    x, truth = numbered(400, 1)
    rng = np.random.default_rng(2)
    wrong = rng.choice(400, 20, replace=False)
    given = truth.copy()
    given[wrong] += rng.choice([-1, 1], 20) * rng.uniform(30, 60, 20)
    given[wrong[0]] *= 1000  # a blunder that would bend what is said of all others
    said = said_of_numbers([x], given)
    assert said is not None
    found = suspected_numbers(said, given)
    assert found[0][0] == wrong[0]
    told = {i for i, _, _ in found}
    assert len(told & set(wrong.tolist())) / 20 > 0.8
    assert len(told & set(wrong.tolist())) / len(told) > 0.8
    assert all(score > SPREADS for _, _, score in found)
    assert np.median([abs(better - truth[i]) for i, better, _ in found]) < 8
    assert len(suspected_numbers(said_of_numbers([x], truth), truth)) <= 2  # type: ignore[arg-type]


def test_without_a_link_to_the_images_only_far_numbers_are_suspected() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(300, 16)).astype(np.float32), rng.uniform(0, 1, 300).astype(np.float32)
    said = said_of_numbers([x], y)
    assert said is not None
    assert suspected_numbers(said, y) == []
    y[17] = 30
    said = said_of_numbers([x], y)
    assert said is not None
    assert [i for i, _, _ in suspected_numbers(said, y)] == [17]


def test_numbers_that_the_images_tell_perfectly() -> None:
    x, y = numbered(200, 4, noise=0.0)
    said = said_of_numbers([x], y)
    assert said is not None
    assert suspected_numbers(said, y) == []


def test_a_copy_does_not_vouch_for_anothers_number() -> None:
    x, y = numbered(150, 5)
    y[0] += 60
    x, y = np.concatenate([x, np.repeat(x[:1], 12, axis=0)]), np.concatenate([y, np.repeat(y[:1], 12)])
    copies = [0, *range(150, 162)]
    fooled, wise = said_of_numbers([x], y), said_of_numbers([x], y, [copies])
    assert fooled is not None
    assert wise is not None
    assert abs(fooled[0] - y[0]) < 30 < abs(wise[0] - y[0])
    assert {i for i, _, _ in suspected_numbers(wise, y)} >= set(copies)


@pytest.mark.parametrize(
    "y", [np.full(20, 7.0), np.r_[np.full(19, 7.0), 8.0], np.r_[np.zeros(15), np.arange(5.0)]]
)
def test_numbers_that_are_nearly_all_the_same(y: np.ndarray) -> None:
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    said = said_of_numbers([x], y)
    assert said is None or np.isfinite(said).all()
    assert said is None or np.isfinite([score for *_, score in suspected_numbers(said, y)]).all()


def test_nothing_can_be_held_out() -> None:
    x, y = numbered(7, 6)
    assert said_of_numbers([x], y) is None
    assert said_of_numbers([np.ones((20, 4), dtype=np.float32)], np.arange(20.0)) is None
    assert said_of_numbers([np.eye(20, dtype=np.float32)], np.full(20, 3.0)) is None


def ages(values: list[float]) -> Numbers:
    data = [(np.full((8, 8, 3), i, dtype=np.uint8), value) for i, value in enumerate(values)]
    bundle = from_datasets(data, data, data, recipe=DataRecipe(task="regression"))
    return Numbers(bundle.train)


def test_rounded_copies_do_not_contradict() -> None:
    truths = ages([3.14159, 3.14, 3.5, 1.0, 7.0, 9.0, 5.0])
    assert rounding(truths.values) == pytest.approx(0.01 * 1.4826 * 1.5, rel=0.05)
    assert not truths.contradict([0, 1])
    assert truths.contradict([0, 1, 2])


def test_numbers_are_written_with_all_their_digits() -> None:
    values = [17.1, 3.0, -0.00012, 16777216.0, 1e-7, 2004.5]
    truths = ages(values)
    assert [truths.cell(i) for i in range(4)] == ["17.1", "3", "-0.00012", "16777216"]
    assert [np.float32(truths.cell(i)) for i in range(6)] == [np.float32(v) for v in values]
    assert truths.given(0) == 17.1
