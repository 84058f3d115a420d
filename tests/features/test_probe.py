"""The probe's head sits on raw taps and takes the better stages."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.errors import StrategyError
from finetune.features.probe import fit_probe
from finetune.features.scaling import Standardiser
from finetune.strategy.plan import ProbePhase


def taps(n: int = 150, k: int = 3) -> tuple[list[np.ndarray], np.ndarray]:
    """Three stages: noise, an informative one on an odd scale, a weakly informative one."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % k
    noise = rng.normal(size=(n, 6))
    good = 50 + 7 * (rng.normal(size=(n, 12)) + 2 * rng.normal(size=(k, 12))[y])
    weak = 1e-3 * (rng.normal(size=(n, 5)) + 0.5 * rng.normal(size=(k, 5))[y])
    return [a.astype(np.float32) for a in (noise, good, weak)], y


def test_folding_is_exact() -> None:
    blocks, _ = taps()
    standardiser = Standardiser.fit(blocks)
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(3, 23)), rng.normal(size=3)
    raw_weight, raw_bias = standardiser.fold(weight, bias)
    expected = standardiser.transform(blocks) @ weight.T + bias
    assert np.concatenate(blocks, axis=1) @ raw_weight.T + raw_bias == pytest.approx(expected, abs=1e-3)


def test_blocks_weigh_the_same_and_constants_nothing() -> None:
    blocks, _ = taps()
    blocks[0][:, 2] = 3.0
    z = Standardiser.fit(blocks).transform(blocks)
    assert (z[:, 2] == 0).all()
    assert z[:, 6:18].var(axis=0).sum() == pytest.approx(z[:, 18:].var(axis=0).sum(), rel=1e-3)


def test_a_channel_that_hardly_ever_fires_is_not_blown_up() -> None:
    blocks, _ = taps()
    rare = blocks[0].copy()
    rare[:, 1] = 0.0
    rare[7, 1] = 0.01
    standardiser = Standardiser.fit([rare])
    rare[8, 1] = 1.0  # a new image in which it fires
    assert np.abs(standardiser.transform([rare])).max() < 6


@pytest.mark.parametrize("solver", ["logistic", "ridge"])
def test_better_stages_win_and_ties_go_to_the_first(solver: str) -> None:
    blocks, y = taps()
    phase = ProbePhase(candidates=((2,), (0,), (1,), (1,)), solver=solver)  # type: ignore[arg-type]
    result = fit_probe(phase, blocks, y, 3)
    assert result.taps == (1,)
    assert len(result.cv) == 4
    assert result.weight.shape == (3, 12)
    assert (result.logits(blocks).argmax(axis=1) == y).mean() > 0.9
    assert result.chosen.accuracy > 0.85
    assert result.chosen.to_dict()["taps"] == [1]


def test_several_stages_are_concatenated() -> None:
    blocks, y = taps()
    result = fit_probe(ProbePhase(candidates=((0, 1, 2),)), blocks, y, 3)
    assert result.weight.shape == (3, 23)


def test_one_image_a_class_gives_a_head() -> None:
    blocks, _ = taps(3, 3)
    result = fit_probe(ProbePhase(candidates=((2,), (1,))), blocks, np.arange(3), 3)
    assert result.taps == (2,)
    assert np.isinf(result.chosen.log_loss)


def test_refusals() -> None:
    blocks, y = taps()
    with pytest.raises(StrategyError, match="probe candidates must be at least one"):
        fit_probe(ProbePhase(candidates=()), blocks, y, 3)
    with pytest.raises(StrategyError, match=r"a probe candidate must be stage numbers in 0\.\.2"):
        fit_probe(ProbePhase(candidates=((3,),)), blocks, y, 3)
    with pytest.raises(StrategyError, match="different between images"):
        fit_probe(ProbePhase(candidates=((0,),)), [np.ones((10, 4), dtype=np.float32)], np.arange(10) % 2, 2)
    with pytest.raises(StrategyError, match="features must be finite"):
        fit_probe(ProbePhase(candidates=((0,),)), [np.where(blocks[0] > 2, np.nan, blocks[0])], y, 3)
