from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.errors import ZooError
from finetune.features.source import SourceStatistics


def draw(n: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 12)) * np.linspace(0.1, 2, 12) + shift).astype(np.float32)


def test_the_source_is_inside_and_another_distribution_is_not() -> None:
    stage = SourceStatistics.measure([draw(4000)], [draw(2000, seed=1)]).stages[0]
    assert stage.share_inside(draw(2000, seed=2)) == pytest.approx(0.9, abs=0.03)
    assert stage.share_inside(draw(2000, shift=5, seed=3)) < 0.05


def test_distance_is_mahalanobis_where_all_directions_are_kept() -> None:
    seen, other = draw(4000), draw(50, seed=4)
    stage = SourceStatistics.measure([seen], [draw(500, seed=1)]).stages[0]
    centred = other - seen.mean(0)
    expected = np.sqrt((centred @ np.linalg.inv(np.cov(seen.T)) * centred).sum(1) / 12)
    np.testing.assert_allclose(stage.distance(other), expected, rtol=0.01)


def test_save_and_load(tmp_path: Path) -> None:
    statistics = SourceStatistics.measure(
        [draw(500), draw(500)[:, :4]], [draw(200, seed=1), draw(200, seed=1)[:, :4]]
    )
    statistics.save(tmp_path / "s.safetensors")
    loaded = SourceStatistics.load(tmp_path / "s.safetensors")
    for a, b in zip(statistics.stages, loaded.stages, strict=True):
        np.testing.assert_allclose(
            a.distance(draw(20)[:, : len(a.mean)]), b.distance(draw(20)[:, : len(a.mean)]), rtol=1e-3
        )


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ZooError, match="is not a file of source statistics"):
        SourceStatistics.load(tmp_path / "s.safetensors")


def test_constant_features_have_a_finite_distance() -> None:
    stage = SourceStatistics.measure([np.ones((50, 4), np.float32)], [np.ones((10, 4), np.float32)]).stages[0]
    assert np.isfinite(stage.distance(np.full((2, 4), 2.0, np.float32))).all()
