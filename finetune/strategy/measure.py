"""Evidence for `auto`: what one pass of a frozen backbone tells about the data. Seconds, no gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from finetune.errors import StrategyError, must
from finetune.features.finite import require_finite
from finetune.features.knn import knn_accuracy
from finetune.features.ridge import fit_ridge
from finetune.features.scaling import Standardiser

MAX_IMAGES = 5000
_LAMBDAS = tuple(10.0 ** (e / 2) for e in range(4, -9, -1))


class Source(Protocol):
    """What is asked of source statistics, one entry a stage (features/source.py)."""

    @property
    def stages(self) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Score:
    """A chance-normalised leave-one-out accuracy: 0 is guessing, 1 is perfect."""

    value: float
    se: float

    def accuracy(self, num_classes: int) -> float:
        """The plain accuracy, a share in [0, 1]."""
        return self.value * (1 - 1 / num_classes) + 1 / num_classes


_UNEVEN = 1.5
"""Largest class over smallest."""

UNMEASURED = Score(0.0, 1.0)
"""Where nothing could be left out: guessing, and anything else is as possible."""


@dataclass(frozen=True)
class Evidence:
    """What was measured. Accuracies are of ridge heads, leave-one-out, chance-normalised."""

    n: int
    """Training images."""
    measured: int
    """Images that were looked at, at most 5000."""
    num_classes: int
    median: float
    """Median images a class."""
    smallest: int
    """Images of the rarest class."""
    imbalance: float
    """Largest class over smallest."""
    stages: tuple[Score, ...]
    """One a stage, input to head."""
    concat: Score
    """All picked stages side by side."""
    knn: float | None
    """Chance-normalised 5-nearest-neighbour accuracy on the last stage; None where there are no classes."""
    curve: tuple[tuple[int, float], ...]
    """(images, chance-normalised accuracy of the last stage) at n/4, n/2, n."""
    source_share: float | None
    """Share of images inside the source's 5-95% band of feature distance at the last stage;
    None without source statistics."""
    source_distance: float | None
    """Median feature distance over that of the source's own unseen images, median over the stages: 1 is the
    source itself. The early stages tell sources apart that the last one, trained to ignore them, does not."""
    measure: str = "accuracy"
    """What the scores are: chance-normalised accuracies, or where no classes are learned ``mean_ap`` (average
    precision, normalised by the label's share) or ``r2`` (share of variance explained)."""
    scale: float = 1.0
    """Side of the images over that of the images that the network was trained on."""

    def shown(self, score: Score) -> tuple[float, float]:
        """The figure that a score stands for and its standard error: the plain accuracy, else the score itself."""
        if self.measure != "accuracy":
            return score.value, score.se
        k = self.num_classes
        return score.accuracy(k), score.se * (1 - 1 / k)

    @property
    def last(self) -> Score:
        """The last stage: what an ordinary linear classifier reaches."""
        return self.stages[-1]

    @property
    def blind(self) -> bool:
        """Whether nothing could be left out, because every class has a single image."""
        return self.last == UNMEASURED

    @property
    def best_stage(self) -> int:
        """The single stage that separates the classes best; ties go to the later one."""
        return max(range(len(self.stages)), key=lambda i: (self.stages[i].value, i))

    @property
    def best(self) -> Score:
        """The best head: on one stage or on several joined."""
        return max((*self.stages, self.concat), key=lambda score: score.value)

    @property
    def guessing(self) -> bool:
        """Whether no head is above guessing by two standard errors."""
        return self.best.value <= 2 * self.best.se

    @property
    def uneven(self) -> bool:
        """Whether a head that goes by the classes' shares too, as trained ones do, can be far better than these."""
        return self.measure == "accuracy" and self.imbalance >= _UNEVEN

    @property
    def gain(self) -> float:
        """Best single stage or the concatenation over the last stage; never negative."""
        return max(self.concat.value, self.stages[self.best_stage].value) - self.last.value

    @property
    def affinity(self) -> float:
        """What pretraining bought: the last stage over the first, little more than colours and edges."""
        return self.last.value - self.stages[0].value

    @property
    def per_doubling(self) -> float | None:
        """Chance-normalised accuracy gained by doubling the images, from the end of the curve."""
        if len(self.curve) < 2:
            return None
        (few, before), (many, after) = self.curve[-2], self.curve[-1]
        return (after - before) / math.log2(many / few)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, derived figures included."""
        tree = asdict(self)
        if self.measure == "accuracy":
            del tree["measure"]
        tree["gain"], tree["affinity"] = self.gain, self.affinity
        tree["best_stage"], tree["per_doubling"] = self.best_stage, self.per_doubling
        return tree


def measure(
    taps: Sequence[np.ndarray], labels: np.ndarray, num_classes: int, *, n: int | None = None,
    counts: Sequence[int] | None = None, source: Source | None = None, seed: int = 0,
) -> Evidence:  # fmt: skip
    """Probe every stage in closed form.

    taps: pooled features of each stage, (N, C_i); labels: (N,) int. ``n`` and ``counts`` describe the whole
    training split where the features are a sample of it (``sample_indices``). A class's only image is never
    left out and counts nowhere. Raises StrategyError for fewer than two images or classes, and for features
    that are not finite or the same for all images.
    """
    if num_classes < 2:
        raise StrategyError(
            must("the number of classes", "at least 2", num_classes, "Add a folder for another class.")
        )
    if len(labels) < 2 or not taps:
        raise StrategyError(must("the training split", "at least 2 images", len(labels)))
    if len(np.unique(labels)) < 2:
        raise StrategyError(must("the training split", "images of at least 2 classes", "images of one"))
    require_finite(taps)
    if not any(Standardiser.fit([tap]).scale.any() for tap in taps):
        raise StrategyError(
            must(
                "features", "different between images", "the same for all at every stage",
                "Are all images equal, or are the backbone's weights broken?",
            )
        )  # fmt: skip
    counted = np.asarray(counts if counts is not None else np.bincount(labels, minlength=num_classes))
    present = counted[counted > 0]
    scores = tuple(_score([tap], labels, num_classes) for tap in taps)
    picked = [taps[i] for i in pick_stages(len(taps))]
    last = taps[-1]
    centred = last - last.mean(axis=0, dtype=np.float64).astype(np.float32)
    share, distance = source_figures(taps, source)
    return Evidence(
        n=int(n if n is not None else len(labels)),
        measured=len(labels),
        num_classes=num_classes,
        median=float(np.median(present)),
        smallest=int(counted.min()),
        imbalance=float(present.max() / present.min()),
        stages=scores,
        concat=_score(picked, labels, num_classes) if len(picked) > 1 else scores[-1],
        knn=_normalise(knn_accuracy(centred, labels, num_classes), num_classes),
        curve=_curve(last, labels, num_classes, scores[-1].value, seed),
        source_share=share,
        source_distance=distance,
    )


def source_figures(taps: Sequence[np.ndarray], source: Source | None) -> tuple[float | None, float | None]:
    """``source_share`` and ``source_distance`` of an Evidence; None without statistics of these stages."""
    if source is None or [len(s.mean) for s in source.stages] != [tap.shape[1] for tap in taps]:
        return None, None
    ratios = [
        np.median(s.distance(tap)) / max(float(s.quantiles[3]), 1e-12)
        for s, tap in zip(source.stages, taps, strict=True)
    ]
    return float(source.stages[-1].share_inside(taps[-1])), float(np.median(ratios))


def pick_stages(num_stages: int, limit: int = 4) -> tuple[int, ...]:
    """Which stages are joined: the last, and up to ``limit - 1`` before it, evenly spread, without the stem.

    >>> pick_stages(5), pick_stages(13), pick_stages(2), pick_stages(1)
    ((1, 2, 3, 4), (3, 6, 9, 12), (1,), (0,))
    """
    last = num_stages - 1
    step = max(1.0, last / limit)
    chosen = {round(last - i * step) for i in range(limit)}
    return tuple(sorted(i for i in chosen if i >= 1)) or (last,)


def sample_indices(labels: np.ndarray, limit: int = MAX_IMAGES, seed: int = 0) -> np.ndarray:
    """At most ``limit`` indices in ascending order, every class in its share and with at least one image.

    >>> sample_indices(np.array([0] * 90 + [1] * 10), limit=20).tolist() == sorted(
    ...     sample_indices(np.array([0] * 90 + [1] * 10), limit=20).tolist())
    True
    """
    if len(labels) <= limit:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    share = limit / len(labels)
    parts = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        parts.append(rng.permutation(members)[: max(1, math.floor(len(members) * share))])
    return np.sort(np.concatenate(parts))


def _score(blocks: Sequence[np.ndarray], labels: np.ndarray, num_classes: int) -> Score:
    """Leave-one-out ridge accuracy of some stages side by side; 0 +- 0 where they carry nothing.

    Over the images that can be left out: without a class's only image the class is gone.
    """
    others = np.bincount(labels, minlength=num_classes)[labels] >= 2
    if not others.any():
        return UNMEASURED
    standardiser = Standardiser.fit(blocks)
    x = standardiser.transform(blocks)
    if not standardiser.scale.any():
        return Score(0.0, 0.0)
    accuracy = fit_ridge(x, labels, num_classes, _LAMBDAS).loo_accuracy(labels, others)
    n = int(others.sum())
    se = math.sqrt(max(accuracy * (1 - accuracy), 0.25 / n) / n)
    return Score(_normalise(accuracy, num_classes), se / (1 - 1 / num_classes))


def _normalise(accuracy: float, num_classes: int) -> float:
    return (accuracy - 1 / num_classes) / (1 - 1 / num_classes)


def _curve(
    tap: np.ndarray, labels: np.ndarray, num_classes: int, whole: float, seed: int
) -> tuple[tuple[int, float], ...]:
    """Accuracy at a quarter, half and all of the images; not where a class has under two images."""
    points = []
    for parts in (4, 2):
        # All parts of the split are measured and averaged: one part alone is too noisy to give a slope.
        rng = np.random.default_rng(seed)
        part_of = np.empty(len(labels), dtype=np.int64)
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            part_of[members] = np.arange(len(members)) % parts
        smallest = min(
            np.bincount(labels[part_of == part], minlength=num_classes).min() for part in range(parts)
        )
        if smallest < 2:
            continue
        values = [
            _score([tap[part_of == part]], labels[part_of == part], num_classes).value
            for part in range(parts)
        ]
        points.append((len(labels) // parts, float(np.mean(values))))
    return (*points, (len(labels), whole))
