"""Evidence where no classes are learned: ridge heads, leave-one-out, on several labels an image or on a number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from finetune.features.finite import require_finite
from finetune.features.ridge import fit_ridge_values
from finetune.features.scaling import Standardiser
from finetune.strategy.measure import Evidence, Score, Source, pick_stages, source_figures
from finetune.task import MULTI_LABEL, Task

_LAMBDAS = tuple(10.0 ** (e / 2) for e in range(4, -9, -1))
_DRAWS = 20


def measure_values(
    task: Task, taps: Sequence[np.ndarray], targets: np.ndarray, everything: np.ndarray, strata: np.ndarray,
    source: Source | None = None,
) -> Evidence:  # fmt: skip
    """Probe every stage in closed form.

    taps: pooled features of each stage, (N, C_i), with (N, K) ``targets``; ``everything`` (M, K) and ``strata`` (M,)
    are those of the whole training split, of which the taps may be a sample. A score is 0 where the head knows no
    more than the mean and 1 where it is perfect: of labels the mean over them of (AP - share) / (1 - share), AP the
    average precision of the left-out answers; of a number R2. Raises StrategyError for features that are not finite.
    """
    require_finite(taps)
    measure = "mean_ap" if task == MULTI_LABEL else "r2"
    counts = everything.sum(axis=0) if task == MULTI_LABEL else np.bincount(strata)
    present = counts[counts > 0]
    scores = tuple(_score([tap], targets, measure) for tap in taps)
    picked = [taps[i] for i in pick_stages(len(taps))]
    share, distance = source_figures(taps, source)
    return Evidence(
        n=len(everything),
        measured=len(targets),
        num_classes=targets.shape[1],
        median=float(np.median(present)),
        smallest=int(counts.min()),
        imbalance=float(present.max() / present.min()),
        stages=scores,
        concat=_score(picked, targets, measure) if len(picked) > 1 else scores[-1],
        knn=None,
        curve=((len(targets), scores[-1].value),),
        source_share=share,
        source_distance=distance,
        measure=measure,
    )


def _score(blocks: Sequence[np.ndarray], targets: np.ndarray, measure: str) -> Score:
    standardiser = Standardiser.fit(blocks)
    varied = targets[:, targets.std(axis=0) > 0].astype(np.float64)
    if not standardiser.scale.any() or len(varied) < 2 or not varied.shape[1]:
        return Score(0.0, 0.0)
    n = len(varied)
    z = (varied - varied.mean(axis=0)) / varied.std(axis=0)
    loo = fit_ridge_values(standardiser.transform(blocks), torch.as_tensor(z), _LAMBDAS).loo.astype(
        np.float64
    )
    if measure == "r2":
        each = 1 - np.square(loo - z).mean(axis=1)
        return Score(float(each.mean()), max(float(each.std() / n**0.5), 0.5 / n))
    # Without an image its own labels are rarer: that is taken out, or a head that knows nothing were below chance.
    answers, yes = loo + z / (n - 1), varied > 0
    rng = np.random.default_rng(0)
    draws = [
        _above_chance(yes[rows], answers[rows]) for rows in (rng.integers(n, size=n) for _ in range(_DRAWS))
    ]
    # As for accuracies: without a mistake the error is not 0, but what half an image makes.
    return Score(_above_chance(yes, answers), max(float(np.std(draws)), 0.5 / n))


def _above_chance(yes: np.ndarray, answers: np.ndarray) -> float:
    """Mean over the labels of (AP - share) / (1 - share); 0 is guessing, 1 is perfect.

    >>> _above_chance(np.array([[True], [False]]), np.array([[2.0], [1.0]]))
    1.0
    """
    count, n = yes.sum(axis=0), len(yes)
    kept = (count > 0) & (count < n)
    if not kept.any():
        return 0.0
    order = np.argsort(-answers, axis=0, kind="stable")
    ranked = np.take_along_axis(yes, order, axis=0)[:, kept]
    precision = ranked.cumsum(axis=0) / np.arange(1, n + 1)[:, None]
    found = (precision * ranked).sum(axis=0) / count[kept]
    share = count[kept] / n
    return float(((found - share) / (1 - share)).mean())
