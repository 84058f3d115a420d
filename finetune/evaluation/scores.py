"""Figures of merit where an image has several labels or a number, in NumPy; those of classes are in metrics.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluation.metrics import Floats, Scores, same_length, score
from finetune.interval import wilson

if TYPE_CHECKING:
    from finetune.data.imageset import ImageSet

Interval = tuple[float, float]
_DRAWS, _LEAST = 1000, 50
_WORK = 2e7  # numbers that the draws of a bootstrap may touch


@dataclass(frozen=True)
class LabelScore:
    """One row of the per-label table."""

    name: str
    support: int
    """Images with this label."""
    average_precision: float
    """NaN where no image has it."""
    precision: float
    """At probability 1/2; 0 where it was never said."""
    recall: float
    """NaN where no image has it."""
    f1: float
    """NaN where no image has it and it was never said."""


@dataclass(frozen=True)
class LabelScores:
    """Everything measured on images with any number of labels each."""

    n: int
    mean_ap: float
    """Mean over the labels that some images have of the area under the precision-recall curve (as a sum of steps)."""
    interval: Interval
    """95%, by the bootstrap over images."""
    micro_f1: float
    """At probability 1/2, over all yes-or-no answers together."""
    macro_f1: float
    """Mean over the labels that some images have."""
    subset_accuracy: float
    """Share of images with all labels right."""
    subset_interval: Interval
    """95% Wilson interval of that."""
    log_loss: float
    """Binary, the mean over images and labels, nats."""
    classes: tuple[LabelScore, ...]

    def to_dict(self) -> dict[str, object]:
        """What result.json keeps."""
        rows = [
            {"class": c.name, "n": c.support, "average_precision": c.average_precision, "precision": c.precision,
             "recall": c.recall, "f1": c.f1}
            for c in self.classes
        ]  # fmt: skip
        return {
            "task": "multi-label", "metric": "mean_ap", "mean_ap": self.mean_ap, "n": self.n,
            "interval": list(self.interval), "micro_f1": self.micro_f1, "macro_f1": self.macro_f1,
            "subset_accuracy": self.subset_accuracy, "subset_interval": list(self.subset_interval),
            "log_loss": self.log_loss, "classes": rows,
        }  # fmt: skip


@dataclass(frozen=True)
class NumberScores:
    """Everything measured on images with a number each; intervals are 95%, by the bootstrap over images."""

    n: int
    mae: float
    """Mean absolute error, in the number's own units."""
    interval: Interval
    rmse: float
    """Root of the mean squared error."""
    rmse_interval: Interval
    r2: float
    """Share of the variance that is explained; NaN where the numbers do not vary."""
    r2_interval: Interval
    truth: np.ndarray
    """(N,) for the picture."""
    answers: np.ndarray

    def to_dict(self) -> dict[str, object]:
        """What result.json keeps."""
        kept = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()
                if k not in ("truth", "answers")}  # fmt: skip
        return {"task": "regression", "metric": "mae", **kept}


AnyScores = Scores | LabelScores | NumberScores


def score_images(images: ImageSet, answers: Floats, classes: tuple[str, ...]) -> AnyScores:
    """All figures of (N, K) answers to labelled images, by the images' task. Raises DataError for an empty set."""
    if images.values is None:
        return score(images.labels, answers, classes)
    same_length(images.values, answers)
    if images.task.name == "regression":
        return score_numbers(images.values[:, 0], answers[:, 0])
    return score_labels(images.values, answers, classes)


def main_figure(scores: dict[str, Any]) -> tuple[str, float]:
    """Name and value of the main one among what ``to_dict`` gave; NaN where there is none.

    >>> main_figure({"accuracy": 0.5, "n": 4}), main_figure({"metric": "mae", "mae": 2.0})
    (('accuracy', 0.5), ('mae', 2.0))
    """
    metric = str(scores.get("metric", "accuracy"))
    return metric, float("nan") if scores[metric] is None else float(scores[metric])


def in_figures(metric: str, value: float) -> str:
    """Shares in per cent, errors in the number's own units.

    >>> in_figures("mean_ap", 0.9153), in_figures("mae", 12.3456)
    ('91.5%', '12.35')
    """
    return f"{value:.4g}" if metric in ("mae", "rmse") else f"{value:.1%}"


def score_labels(truth: Floats, probabilities: Floats, classes: tuple[str, ...]) -> LabelScores:
    """All figures of (N, K) probabilities of labels against (N, K) zeros and ones."""
    yes, said = np.asarray(truth) > 0.5, np.asarray(probabilities) > 0.5
    p = np.asarray(probabilities, np.float64)
    rows = tuple(_label_score(name, yes[:, k], said[:, k], p[:, k]) for k, name in enumerate(classes))
    present = [row for row in rows if row.support]
    right = int((yes == said).all(axis=1).sum())
    n, smallest = len(yes), np.finfo(np.float32).eps
    clipped = np.clip(p, smallest, 1 - smallest)

    def mean_ap(draw: np.ndarray) -> tuple[float, ...]:
        found = [average_precision(yes[draw, k], p[draw, k]) for k in range(len(classes))]
        return (_mean([ap for ap in found if not np.isnan(ap)]),)

    mean = _mean([row.average_precision for row in present])
    ((low, high),) = bootstrap(mean_ap, (mean,), n, n * len(classes) * 20)
    return LabelScores(
        n=n,
        mean_ap=mean,
        interval=(max(0.0, low), min(1.0, high)),
        micro_f1=_f1(int((yes & said).sum()), int(yes.sum() + said.sum())),
        macro_f1=_mean([row.f1 for row in present]),
        subset_accuracy=right / n,
        subset_interval=wilson(right, n),
        log_loss=float(-np.where(yes, np.log(clipped), np.log1p(-clipped)).mean()),
        classes=rows,
    )


def score_numbers(truth: Floats, answers: Floats) -> NumberScores:
    """All figures of (N,) answers against (N,) numbers."""
    y, answer = np.asarray(truth, np.float64), np.asarray(answers, np.float64)

    def figures(draw: np.ndarray) -> tuple[float, ...]:
        error = answer[draw] - y[draw]
        variance, squared = y[draw].var(), np.square(error).mean()
        r2 = 1 - squared / variance if variance > 0 else np.nan
        return float(np.abs(error).mean()), float(np.sqrt(squared)), float(r2)

    mae, rmse, r2 = found = figures(np.arange(len(y)))
    intervals = bootstrap(figures, found, len(y), len(y) * 3)
    return NumberScores(len(y), mae, intervals[0], rmse, intervals[1], r2, intervals[2], y, answer)


def average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Sum over the thresholds of precision times the gain in recall; NaN without a positive.

    >>> round(average_precision(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])), 4)
    0.8333
    """
    positives = truth.sum()
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(truth[order] > 0)
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # equal scores are one threshold
    recall = np.diff(np.append(0, hits[ends])) / positives
    return float((recall * hits[ends] / (ends + 1)).sum())


def bootstrap(
    figures: Callable[[np.ndarray], tuple[float, ...]], found: tuple[float, ...], n: int, work: float
) -> list[Interval]:
    """95% intervals of figures of n images: percentiles of draws with replacement (Efron 1979), always the same ones.

    ``work``: numbers that one draw touches. Draws in which a figure is NaN do not count for it; where fewer than half
    of them are left, the interval is NaN too.
    """
    rng, draws = np.random.default_rng(0), int(np.clip(_WORK / max(1.0, work), _LEAST, _DRAWS))
    table = np.array([figures(rng.integers(n, size=n)) for _ in range(draws)])
    intervals: list[Interval] = []
    for column, value in zip(table.T, found, strict=True):
        kept = column[~np.isnan(column)]
        known = len(kept) >= draws / 2 and not np.isnan(value)
        low, high = np.percentile(kept, (2.5, 97.5)) if known else (np.nan, np.nan)
        intervals.append((float(low), float(high)))
    return intervals


def _label_score(name: str, yes: np.ndarray, said: np.ndarray, p: np.ndarray) -> LabelScore:
    hits, support, called = int((yes & said).sum()), int(yes.sum()), int(said.sum())
    return LabelScore(
        name, support, average_precision(yes, p), hits / called if called else 0.0,
        hits / support if support else float("nan"), _f1(hits, support + called),
    )  # fmt: skip


def _f1(hits: int, sizes: int) -> float:
    return 2 * hits / sizes if sizes else float("nan")


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
