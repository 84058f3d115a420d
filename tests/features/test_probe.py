"""The probe's head sits on raw taps and takes the better stages."""

from __future__ import annotations

import json

import numpy as np
import pytest

from finetune.errors import StrategyError
from finetune.features.choice import tied
from finetune.features.combine import average_heads
from finetune.features.heads import HEADS, fit_head
from finetune.features.probe import fit_probe
from finetune.features.probe_result import ProbeResult
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


@pytest.mark.parametrize("solver", [*HEADS, "auto"])
def test_better_stages_win_and_ties_go_to_the_first(solver: str) -> None:
    blocks, y = taps()
    phase = ProbePhase(candidates=((2,), (0,), (1,), (1,)), solver=solver)  # type: ignore[arg-type]
    result = fit_probe(phase, blocks, y, 3)
    assert result.taps == (1,)
    assert [score.taps for score in result.cv] == [(2,), (0,), (1,)]
    assert result.weight.shape == (3, 12)
    assert (result.logits(blocks).argmax(axis=1) == y).mean() > 0.9
    assert result.chosen.accuracy > 0.85
    assert result.chosen.to_dict()["taps"] == [1]


def test_several_stages_are_concatenated() -> None:
    blocks, y = taps()
    result = fit_probe(ProbePhase(candidates=((0, 1, 2),)), blocks, y, 3)
    assert result.weight.shape == (3, 23)


def few(m: int, k: int = 4, d: int = 40, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Three stages of correlated noise around class means, about equally good; m images a class."""
    rng = np.random.default_rng(seed)
    y = np.arange(m * k) % k
    stages = []
    for _ in range(3):
        mix = rng.normal(size=(d, d)) / np.sqrt(d)
        stages.append(
            (rng.normal(size=(m * k, d)) @ mix + 0.5 * rng.normal(size=(k, d))[y]).astype(np.float32)
        )
    return stages, y


def test_logistic_from_five_images_a_class_on() -> None:
    for m, kinds in ((5, ["logistic"]), (4, list(HEADS)), (2, list(HEADS))):
        blocks, y = few(m)
        result = fit_probe(ProbePhase(candidates=((2,),)), blocks, y, 4)
        assert [score.solver for score in result.cv] == kinds
        assert f"median of {m} images a class" in result.rule
        assert result.story().startswith("Head: ")
        assert "\n" not in result.story()
        if m < 5:
            assert all(f"{kind} 2 " in result.story() for kind in HEADS)


def test_explicit_solvers_are_taken_at_any_size() -> None:
    for solver in HEADS:
        for m in (2, 12):
            blocks, y = few(m)
            phase = ProbePhase(candidates=((2,),), solver=solver, combine="average")  # type: ignore[arg-type]
            result = fit_probe(phase, blocks, y, 4)
            assert result.solver == solver
            assert [score.solver for score in result.cv] == [solver]


def test_picked_is_the_simplest_within_one_standard_error() -> None:
    seen = set()
    for seed in range(12):
        blocks, y = few(3, seed=seed)
        result = fit_probe(ProbePhase(candidates=((2,),), combine="pick"), blocks, y, 4)
        standardiser = Standardiser.fit([blocks[2]])
        x = standardiser.transform([blocks[2]])
        losses = [-fit_head(kind, x, y, 4).held_out[np.arange(len(y)), y] for kind in HEADS]
        best = int(np.argmin([row.mean() for row in losses]))
        for kind, row in zip(HEADS, losses, strict=True):
            difference = row - losses[best]
            if difference.mean() <= difference.std(ddof=1) / len(y) ** 0.5 + 1e-6:
                assert result.solver == kind
                break
        seen.add(result.solver)
    assert len(seen) > 1, "the data decide"


def test_ties_by_paired_differences() -> None:
    rng = np.random.default_rng(0)
    hard = (
        rng.normal(size=50) ** 2
    )  # some images are hard for everyone: unpaired errors would hide the difference
    better = hard + 0.05 * rng.normal(size=50)
    assert tied([hard + 0.3, better]) == [1]
    assert tied([hard + 0.001, better]) == [0, 1]
    nothing = np.full(50, np.nan)
    assert tied([nothing, nothing]) == [0]
    assert tied([nothing, better]) == [1]
    once = np.where(np.arange(50) == 3, 1.0, np.nan)
    assert tied([once, once + 5]) == [0, 1], "one image tells nothing"


def test_mean_of_heads_has_the_mean_of_their_logits() -> None:
    rng = np.random.default_rng(0)
    widths, n = (3, 5, 4), 20
    stages = [rng.normal(size=(n, w)).astype(np.float32) for w in widths]
    heads, logits = [], []
    for taps in ((2,), (0, 2), (0, 1, 2), (0,)):
        weight = rng.normal(size=(6, sum(widths[i] for i in taps))).astype(np.float32)
        bias = rng.normal(size=6).astype(np.float32)
        heads.append((taps, weight, bias))
        logits.append(np.concatenate([stages[i] for i in taps], axis=1) @ weight.T + bias)
    taps, weight, bias = average_heads(heads, widths)
    assert taps == (0, 1, 2)
    assert np.concatenate(stages, axis=1) @ weight.T + bias == pytest.approx(
        np.mean(logits, axis=0), abs=1e-5
    )
    alone, _, _ = average_heads(heads[:1], widths)
    assert alone == (2,)


def test_tied_candidates_are_averaged() -> None:
    blocks, y = few(3)
    phase = ProbePhase(candidates=((2,), (1,), (1, 2)))
    result = fit_probe(phase, blocks, y, 4)
    assert result.solver == "average"
    assert len(result.members) > 1
    single = [
        fit_probe(ProbePhase(candidates=(m.taps,), solver=m.solver), blocks, y, 4)  # type: ignore[arg-type]
        for m in result.members
    ]
    expected = np.mean([head.logits(blocks) for head in single], axis=0)
    assert result.logits(blocks) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert result.chosen.log_loss <= np.mean([m.log_loss for m in result.members]) + 1e-6
    assert "mean of " in result.story()
    tree = result.to_dict()
    assert len(tree["members"]) == len(result.members)
    assert len(tree["candidates"]) == 12
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree


def test_when_tied_candidates_are_averaged() -> None:
    solvers = {}
    for m in (29, 30):
        blocks, y = few(m)
        blocks[1] = blocks[2] + 0.01  # the same information: tied whatever is said of the images
        for combine in ("auto", "pick", "average"):
            phase = ProbePhase(candidates=((2,), (1,)), combine=combine)  # type: ignore[arg-type]
            solvers[m, combine] = fit_probe(phase, blocks, y, 4).solver
    assert solvers == {
        (29, "auto"): "average", (29, "pick"): "logistic", (29, "average"): "average",
        (30, "auto"): "logistic", (30, "pick"): "logistic", (30, "average"): "average",
    }  # fmt: skip
    blocks, y = taps()
    clear = fit_probe(ProbePhase(candidates=((0,), (1,)), combine="average"), blocks, y, 3)
    assert (clear.solver, clear.taps) == ("logistic", (1,)), "a clear winner is not diluted"


def log_loss(result: ProbeResult, blocks: list[np.ndarray], y: np.ndarray) -> float:
    logits = result.logits(blocks).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]).mean())


def test_averaging_is_not_worse_than_picking() -> None:
    """New images of the same classes, mean over ten data sets of three images a class."""
    losses: dict[str, list[float]] = {"average": [], "pick": []}
    for seed in range(10):
        blocks, y = few(60, seed=seed)
        train, rest = np.arange(len(y)) < 12, np.arange(len(y)) >= 12
        for combine, found in losses.items():
            phase = ProbePhase(candidates=((2,), (1,), (0,)), combine=combine)  # type: ignore[arg-type]
            result = fit_probe(phase, [b[train] for b in blocks], y[train], 4)
            found.append(log_loss(result, [b[rest] for b in blocks], y[rest]))
    assert np.mean(losses["average"]) < np.mean(losses["pick"])


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
