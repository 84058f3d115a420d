"""Data that tell little or nothing: a clear refusal, or a decision that does not pretend to know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finetune.data.imageset import DataBundle, ImageSet
from finetune.errors import StrategyError, ZooError
from finetune.events import Listener
from finetune.features.source import SourceStatistics
from finetune.recipe import Recipe
from finetune.strategy.decision import decide
from finetune.strategy.evidence import gather
from finetune.strategy.measure import UNMEASURED, measure
from finetune.strategy.similarity import similarity_of
from finetune.zoo.create import create_backbone


def made(counts: tuple[int, ...], strength: float = 3.0) -> tuple[list[np.ndarray], np.ndarray]:
    """Three stages, later ones better; classes of the given sizes."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = rng.normal(size=(len(counts), 12))
    return [
        (rng.normal(size=(len(labels), 12)) + strength * (i + 1) / 3 * centres[labels]).astype(np.float32)
        for i in range(3)
    ], labels


def test_refusals() -> None:
    taps, labels = made((10, 10))
    with pytest.raises(StrategyError, match="number of classes must be at least 2. Got 1"):
        measure(taps, labels * 0, 1)
    with pytest.raises(
        StrategyError, match="training split must be images of at least 2 classes. Got images of one"
    ):
        measure(taps, labels * 0, 2)
    with pytest.raises(StrategyError, match="training split must be at least 2 images"):
        measure([tap[:1] for tap in taps], labels[:1], 2)
    with pytest.raises(
        StrategyError,
        match=r"features must be different between images\. Got the same for all at every stage",
    ):
        measure([np.ones_like(tap) for tap in taps], labels, 2)
    for value, word in ((np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity"), (1e30, "infinity")):
        broken = [tap.copy() for tap in taps]
        broken[1][7, 3] = value
        with pytest.raises(
            StrategyError,
            match=rf"finite\. Got {word} for image 7 at stage 1 \(in 1 of 20 images\).*Remove the image",
        ):
            measure(broken, labels, 2)


@pytest.mark.parametrize("counts", [(1, 1), (1,) * 30])
def test_one_image_a_class_claims_nothing(counts: tuple[int, ...]) -> None:
    taps, labels = made(counts)
    found = measure(taps, labels, len(counts))
    assert found.blind
    assert {found.last, found.concat} == {UNMEASURED}
    assert similarity_of(found) == (
        0.5,
        ("with one image a class nothing can be left out, so the labels tell nothing",),
    )
    decision = decide(found)
    assert decision.chosen in ("linear", "multistage")
    assert not any("without seeing the image" in reason for reason in decision.reasons)
    assert decision.expected == {}
    near, far = replace(found, source_distance=1.0), replace(found, source_distance=2.0)
    assert similarity_of(near)[0] == 0.75
    assert similarity_of(far)[0] == 0.25
    assert decide(near).chosen == "linear"


def test_single_images_of_some_classes_do_not_count_as_errors() -> None:
    taps, labels = made((12, 12, 1, 1, 1, 1), strength=9)
    assert measure(taps, labels, 6).last.value > 0.9


@pytest.mark.parametrize(
    "counts", [(2, 1), (2, 2), (3, 0, 0, 1), (2,) + (1,) * 9, (1, 0, 0, 0, 0, 0, 0, 5), (500, 1)]
)
def test_scraps_give_a_decision(counts: tuple[int, ...]) -> None:
    """Fewer images than classes, classes without any, one pair, one giant."""
    taps, labels = made(counts)
    found = measure(taps, labels, len(counts))
    decision = decide(found)
    assert decision.chosen in ("linear", "multistage", "partial", "lp-ft", "full")
    assert 0 <= similarity_of(found)[0] <= 1
    assert all(np.isfinite([score.value, score.se]).all() for score in (*found.stages, found.concat))


def test_flat_stages_and_columns() -> None:
    taps, labels = made((10, 10, 10))
    constant = [np.hstack([tap, np.full((30, 1), 5, dtype=np.float32)]) for tap in taps]
    plain, padded = measure(taps, labels, 3), measure(constant, labels, 3)
    assert padded.last.value == pytest.approx(plain.last.value, abs=0.04)
    flat = measure([taps[0], np.ones_like(taps[1]), np.zeros_like(taps[2])], labels, 3)
    assert flat.last.value == 0.0
    assert flat.best_stage == 0
    assert decide(flat).cell is not None
    assert decide(flat).chosen != "linear", "the last stage carries nothing"


class Noise(ImageSet):
    """Random pictures."""

    def __init__(self, labels: list[int], classes: int) -> None:
        self.labels = np.array(labels, dtype=np.int64)
        self.classes = tuple(f"c{i}" for i in range(classes))
        self._pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)

    def load(self, index: int):  # type: ignore[no-untyped-def]
        from PIL import Image

        return Image.fromarray(self._pixels[index])

    def name(self, index: int) -> str:
        return f"{self.classes[self.labels[index]]}/{index}.png"

    def fingerprint(self, index: int) -> bytes:
        return self._pixels[index].tobytes()


def test_backbone_without_source_statistics_decides_without_them() -> None:
    images = Noise([0, 0, 0, 1, 1, 1], 2)
    bundle = DataBundle(images, images.subset([]), images.subset([]))
    backbone = create_backbone("test_resnet", pretrained=False, num_classes=2, image_size=32)
    found = gather(Recipe(), bundle, backbone, Listener())
    assert (found.source_share, found.source_distance) == (None, None)
    assert found.scale == 32 / backbone.card.size < 1
    (similarity,) = [reason for reason in decide(found).reasons if reason.startswith("Similarity")]
    assert "feature distance" not in similarity
    assert "no source statistics for this backbone: judged by the labels alone" in similarity


def test_broken_backbone_names_image_stage_and_remedy() -> None:
    images = Noise([0, 0, 0, 1, 1, 1], 2)
    bundle = DataBundle(images, images.subset([]), images.subset([]))
    backbone = create_backbone("test_resnet", pretrained=False, num_classes=2, image_size=32)
    last = backbone.num_stages - 1
    next(iter(p for _, p in backbone.stage_parameters(last))).data.fill_(np.nan)
    name = backbone.stage_names[last]
    for _ in range(2):  # broken rows do not come back from the cache
        with pytest.raises(
            StrategyError,
            match=rf"features must be finite\. Got NaN for 'c0/0\.png' at stage {name} \(in 6 of 6 images\) instead\. "
            "The backbone's weights or its precision are broken: try another backbone",
        ):
            gather(Recipe(), bundle, backbone, Listener())


def test_source_statistics_with_holes_are_refused(tmp_path: Path) -> None:
    taps, labels = made((30, 30))
    good = SourceStatistics.measure(taps, taps)
    zero = replace(good.stages[1], quantiles=np.zeros(7, dtype=np.float32))
    odd = SourceStatistics((good.stages[0], zero, good.stages[2]))
    distance = measure(taps, labels, 2, source=odd).source_distance
    assert distance is not None
    assert np.isfinite(distance)
    for hole in ({"rest": 0.0}, {"mean": np.full(12, np.nan, dtype=np.float32)}):
        broken = SourceStatistics((replace(good.stages[0], **hole), *good.stages[1:]))
        broken.save(tmp_path / "stats.safetensors")
        with pytest.raises(ZooError, match="values that are not finite and positive. Delete it"):
            SourceStatistics.load(tmp_path / "stats.safetensors")
