"""The probe on hopeless data: one clear message, or a head that is finite and claims no more than it knows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from finetune.errors import StrategyError
from finetune.features.heads import HEADS
from finetune.features.knn import knn_accuracy
from finetune.features.probe import fit_probe
from finetune.strategy.plan import ProbePhase


def made(counts: tuple[int, ...], d: int = 10) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = 2 * rng.normal(size=(len(counts), d))
    return [
        (rng.normal(size=(len(labels), d)) + centres[labels]).astype(np.float32) for _ in range(3)
    ], labels


def phase(solver: str = "auto", combine: str = "auto") -> ProbePhase:
    return ProbePhase(candidates=((2,), (1,), (1, 2)), solver=solver, combine=combine)  # type: ignore[arg-type]


SCRAPS = {
    "two images": (1, 1),
    "two and one": (2, 1),
    "two and two": (2, 2),
    "one image a class": (1,) * 12,
    "fewer images than classes": (1, 0, 0, 2, 0, 0, 0, 0),
    "one pair among single images": (2, *(1,) * 9),
    "a giant and a single image": (200, 1),
    "a class without images": (6, 0, 6),
    "many classes of two": (2,) * 20,
}


@pytest.mark.parametrize("solver", [*HEADS, "auto"])
@pytest.mark.parametrize("combine", ["pick", "average"])
@pytest.mark.parametrize("counts", SCRAPS.values(), ids=SCRAPS.keys())
def test_scraps_give_a_finite_head(solver: str, combine: str, counts: tuple[int, ...]) -> None:
    features, labels = made(counts)
    result = fit_probe(phase(solver, combine), features, labels, len(counts))
    assert result.weight.shape[0] == len(counts)
    assert np.isfinite(result.weight).all()
    assert np.isfinite(result.bias).all()
    answers = set(result.logits(features).argmax(axis=1))
    assert answers <= set(labels), "a class without images is never the answer"
    json.dumps(result.to_dict(), allow_nan=False)
    if max(counts) < 2:
        assert result.taps == (2,), "nothing could be compared: the first candidate"
        assert np.isinf(result.chosen.log_loss)
        assert "nothing" in result.rule or "none can be held out" in result.rule or solver != "auto"


def test_one_class_is_refused() -> None:
    features, labels = made((8, 0))
    with pytest.raises(
        StrategyError, match="training split must be images of at least 2 classes. Got 8 of one class"
    ):
        fit_probe(phase(), features, labels, 2)
    with pytest.raises(StrategyError, match="number of classes must be at least 2"):
        fit_probe(phase(), features, labels, 1)
    with pytest.raises(StrategyError, match="training split must be at least one image"):
        fit_probe(phase(), [tap[:0] for tap in features], labels[:0], 2)


def test_not_finite_names_image_and_stage() -> None:
    features, labels = made((8, 8))
    features[1][11, 4] = np.inf
    with pytest.raises(
        StrategyError,
        match=r"features must be finite\. Got infinity for image 11 at stage 1 \(in 1 of 16 images\)",
    ):
        fit_probe(phase(), features, labels, 2)
    features[0][3] = np.nan
    with pytest.raises(
        StrategyError, match=r"Got NaN for image 3 at stage 0 \(in 2 of 16 images\).*Remove the image"
    ):
        fit_probe(phase(), features, labels, 2)
    with pytest.raises(
        StrategyError, match=r"Got NaN for image 0 at stage 0 \(in 16 of 16 .*The backbone's weights"
    ):
        fit_probe(phase(), [np.full_like(tap, np.nan) for tap in features], labels, 2)


@pytest.mark.parametrize("counts", [(2, 2, 2), (30, 30, 30)])
def test_flat_stages_are_passed_over(counts: tuple[int, ...]) -> None:
    features, labels = made(counts)
    features[2] = np.full_like(features[2], 7.0)
    result = fit_probe(phase(), features, labels, 3)
    assert {score.taps for score in result.cv} == {(1,), (1, 2)}
    with pytest.raises(StrategyError, match=r"features of stages \[2\] must be different between images"):
        fit_probe(ProbePhase(candidates=((2,),)), features, labels, 3)


@pytest.mark.parametrize("solver", HEADS)
def test_constant_and_extreme_columns(solver: str) -> None:
    features, labels = made((6, 6, 6))
    features[2][:, 3] = 1e6
    features[2][:, 4] *= 1e12
    features[2][:, 5] *= 1e-20
    result = fit_probe(ProbePhase(candidates=((2,),), solver=solver), features, labels, 3)  # type: ignore[arg-type]
    assert np.isfinite(result.logits(features)).all()
    assert not result.weight[:, 3].any(), "what never changes tells nothing"


def test_unknown_choices() -> None:
    features, labels = made((4, 4))
    odd = ProbePhase.model_construct(candidates=((2,),), solver="svm", combine="auto", lambdas=(), folds=5)
    with pytest.raises(StrategyError, match=r"probe\.solver must be auto or one of"):
        fit_probe(odd, features, labels, 2)
    odd = ProbePhase.model_construct(candidates=((2,),), solver="auto", combine="vote", lambdas=(), folds=5)
    with pytest.raises(StrategyError, match=r"probe\.combine must be pick, average or auto. Got 'vote'"):
        fit_probe(odd, features, labels, 2)


def test_nearest_neighbours_of_flat_features() -> None:
    x = np.zeros((6, 4), dtype=np.float32)
    assert 0 <= knn_accuracy(x, np.arange(6) % 2, 2) <= 1
