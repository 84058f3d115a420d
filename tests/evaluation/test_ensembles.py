"""The mean of answers, and the two greedy choices, against plain re-implementations and planted facts."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.errors import ConfigError, DataError
from finetune.evaluation.ensembles import forward_selection, greedy_soup, mean_probabilities
from finetune.evaluation.metrics import log_loss


def candidates(n: int = 60, k: int = 4) -> tuple[list[np.ndarray], np.ndarray]:
    """Five noisy answers to n questions, and one that knows nothing and is sure of it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, k, n)
    parts = []
    for noise in (0.8, 0.9, 1.0, 1.2, 1.5):
        logits = np.eye(k)[labels] * 1.5 + rng.normal(0, noise, (n, k))
        parts.append(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    parts.append(np.eye(k)[rng.integers(0, k, n)] * 0.97 + 0.01)
    return parts, labels


def test_mean_is_the_weighted_sum() -> None:
    parts, _ = candidates()
    got = mean_probabilities(parts[:3], [0.5, 0.25, 0.25])
    np.testing.assert_allclose(got, 0.5 * parts[0] + 0.25 * parts[1] + 0.25 * parts[2], rtol=1e-6)
    assert got.dtype == np.float32


def test_forward_selection_is_caruanas() -> None:
    parts, labels = candidates()
    weights = forward_selection(parts, labels, rounds=20)
    bag: list[int] = []
    prefixes = []
    for _ in range(20):  # the paper's loop, written out
        losses = [log_loss(labels, np.mean([parts[i] for i in [*bag, j]], axis=0)) for j in range(len(parts))]
        bag.append(int(np.argmin(losses)))
        prefixes.append((min(losses), len(bag)))
    kept = bag[: min(prefixes, key=lambda p: (round(p[0], 9), p[1]))[1]]
    assert weights == pytest.approx([kept.count(i) / len(kept) for i in range(len(parts))])
    assert sum(weights) == pytest.approx(1)
    assert weights[-1] == 0  # the impostor
    chosen = log_loss(labels, mean_probabilities(parts, weights))
    assert chosen <= min(log_loss(labels, part) for part in parts) + 1e-6
    assert max(np.array(weights) * 20) > 1  # with replacement


def test_one_perfect_candidate_is_taken_alone() -> None:
    parts, labels = candidates()
    perfect = np.eye(4)[labels]
    assert forward_selection([*parts, perfect], labels) == [0, 0, 0, 0, 0, 0, 1]


def test_selection_needs_something_to_choose_from_and_on() -> None:
    with pytest.raises(ConfigError, match="the candidates of a selection must be at least one"):
        forward_selection([], np.zeros(3, int))
    with pytest.raises(DataError, match="equally many and at least one"):
        forward_selection([np.zeros((0, 2))], np.zeros(0, int))


def test_greedy_soup_takes_what_does_not_harm() -> None:
    table = {(2,): 0.8, (2, 0): 0.8, (2, 0, 1): 0.7, (2, 0, 3): 0.9}
    asked = []

    def judge(ingredients: list[int]) -> float:
        asked.append(tuple(ingredients))
        return table[tuple(ingredients)]

    assert greedy_soup([2, 0, 1, 3], judge) == ([2, 0, 3], [0.8, 0.8, 0.8, 0.9])
    assert asked == list(table)
