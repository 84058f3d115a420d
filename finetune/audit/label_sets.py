"""Truths of images that have any number of labels, and which of the labels are probably missing or too many.

Each label is a question with the answers no and yes. What the other images answer comes from the same two views as for
classes: ridge regression on all stages, leave-one-out, and the nearest neighbours in the last stage. A logistic
regression on these two numbers makes a probability of them, and confident learning (``finetune.audit.labels``) compares
it with what was given, label by label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.audit.labels import SCORE, suspects
from finetune.audit.truths import Judgement, Truths, imbalance, least_and_most
from finetune.audit.views import first_of_each, for_all, neighbours, standardised
from finetune.errors import DataError, must
from finetune.features.outputs import image_f1
from finetune.features.ridge import fit_ridge_values

_STRENGTH = 1e-3
"""L2 strength of the logistic regression on the two views, each standardised."""
_CERTAIN = 1e-7
_SEPARATORS = ("|", ";", ",", "/", "&", "+", "||", ";;")


def said_of_labels(
    taps: Sequence[np.ndarray], values: np.ndarray, copies: Sequence[Sequence[int]] = ()
) -> np.ndarray | None:
    """(N, K) probabilities of each label by what the *other* images say; None where there are too few.

    values: (N, K) of 0 and 1. NaN for labels that fewer than two of the images have, or all but fewer than two: without
    one of its own images nothing would be known of them. taps, copies: as in ``finetune.audit.labels.held_out``.
    """
    kept = first_of_each(len(values), copies)
    own = values[kept].astype(np.float64)
    n, yes = len(own), own.sum(axis=0)
    asked = np.flatnonzero((yes >= 2) & (n - yes >= 2))
    x = standardised(taps, kept) if len(asked) else None
    if x is None:
        return None
    y = own[:, asked]
    # Leaving an image out makes its own answer the rarer one; the shares are put back as they are.
    shares = (yes[asked] - y) / (n - 1)
    ridge = fit_ridge_values(x, torch.from_numpy(y)).loo - shares + yes[asked] / n
    said = np.full(own.shape, np.nan)
    said[:, asked] = _probabilities(np.stack([ridge, _shares(taps[-1][kept], y)]), y)
    return for_all(said, kept, len(values), copies)


def _shares(features: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N, K) share of the nearest others that have each label."""
    known = torch.from_numpy(y).float()
    out = torch.empty_like(known)
    for rows, weights, index in neighbours(features):
        out[rows] = torch.einsum("bn,bnk->bk", weights, known[index])
    found: np.ndarray = out.numpy()
    return found


def _probabilities(views: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N, K) from V views (V, N, K): for each label a logistic regression on the views' numbers for it, all at once."""
    x, target = torch.from_numpy(views).double(), torch.from_numpy(y)
    x = (x - x.mean(dim=1, keepdim=True)) / x.std(dim=1, keepdim=True).clamp_min(_CERTAIN)
    weight = torch.zeros(len(views), 1, y.shape[1], dtype=torch.float64, requires_grad=True)
    bias = target.mean(dim=0).logit().requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        each = F.binary_cross_entropy_with_logits((weight * x).sum(dim=0) + bias, target, reduction="none")
        loss = each.mean(dim=0).sum() + _STRENGTH / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found: np.ndarray = ((weight * x).sum(dim=0) + bias).sigmoid().detach().numpy()
    return found


def suspected_labels(said: np.ndarray, values: np.ndarray) -> list[tuple[int, tuple[int, ...], float]]:
    """(image, labels it probably should have, score) of the images with a label too many or too few, the surest first.

    said: (N, K) probabilities of each label, NaN for labels that are not judged; values: (N, K) of 0 and 1. The score
    is that of the surest label: the probability of the other answer minus that of the one given, out of fold. A rare
    label is improbable on an image that nothing is known of, which is nothing against it: so the difference is also
    taken as it would be if as many images had the label as not, and the smaller of the two counts.
    """
    wrong: dict[int, dict[int, float]] = {}
    for k in np.flatnonzero(~np.isnan(said).all(axis=0)):
        p, y = np.clip(said[:, k], _CERTAIN, 1 - _CERTAIN), values[:, k].astype(np.int64)
        odds = p / (1 - p) * (1 - y.mean()) / y.mean()
        margin = np.minimum((1 - 2 * y) * (2 * p - 1), (1 - 2 * y) * (odds - 1) / (odds + 1))
        for found in suspects(np.log(np.stack([1 - p, p], axis=1)), y):
            if margin[found.index] >= SCORE:
                wrong.setdefault(found.index, {})[int(k)] = float(margin[found.index])
    entries = []
    for index, labels in wrong.items():
        better = values[index] > 0
        better[list(labels)] ^= True
        entries.append((index, tuple(np.flatnonzero(better).tolist()), max(labels.values())))
    return sorted(entries, key=lambda entry: (-entry[2], entry[0]))


class LabelSets(Truths[tuple[int, ...]]):
    """Any number of labels an image, by their numbers."""

    noun = "label"
    torn = "copies with different labels"
    contradiction = "The same picture with different labels"
    contradiction_means = "At least one of them has a label too many or too few."
    doubts = "Labels to look at"
    doubts_mean = ("What the other images say contradicts one label of the image or more: it should have one that it "
                   "has not, or has one that it should not. The surest first.")  # fmt: skip
    one_name = "Names of labels that look like one label"
    alike = "with the same rarest label"

    @property
    def values(self) -> np.ndarray:
        """(N, K) float32 of 0 and 1."""
        assert self.images.values is not None
        return self.images.values

    def given(self, index: int) -> tuple[int, ...]:
        return tuple(np.flatnonzero(self.values[index] > 0).tolist())

    def plain(self, answer: tuple[int, ...]) -> Any:
        return [self.images.classes[k] for k in answer]

    def shown(self, answer: tuple[int, ...]) -> str:
        return " | ".join(self.plain(answer)) or "no label"

    def cell(self, index: int) -> str:
        return self._separator().join(self.plain(self.given(index)))

    def overrides(self) -> tuple[str, ...]:
        separator = self._separator()
        other = () if separator == _SEPARATORS[0] else (f"data.label_separator={separator}",)
        return (*super().overrides(), *other)

    def _separator(self) -> str:
        """What no label's name holds."""
        for separator in _SEPARATORS:
            if not any(separator in name for name in self.images.classes):
                return separator
        got = "labels that hold each of them"
        raise DataError(must("Names of labels", f"free of one of {' '.join(_SEPARATORS)}", got))

    def contradict(self, group: Sequence[int]) -> bool:
        return len({self.given(i) for i in group}) > 1

    def judge(
        self, taps: Sequence[np.ndarray], copies: Sequence[Sequence[int]]
    ) -> Judgement[tuple[int, ...]]:
        said = said_of_labels(taps, self.values, copies)
        if said is None:
            return Judgement()
        judged = ~np.isnan(said).any(axis=0)
        f1 = image_f1(said[:, judged] > 0.5, self.values[:, judged])
        return Judgement(tuple(suspected_labels(said, self.values)), float(f1.mean()))

    def counts(self) -> dict[str, int]:
        """Images of each label."""
        found = self.values.sum(axis=0)
        return {name: int(n) for name, n in zip(self.images.classes, found, strict=True)}

    def without(self) -> int:
        """Images that have no label."""
        return int((~self.values.any(axis=1)).sum())

    def facts(self) -> dict[str, Any]:
        counts = self.counts()
        return {"task": self.task.name, "classes": counts, "imbalance": imbalance(counts),
                "without_labels": self.without()}  # fmt: skip

    def bars(self) -> list[tuple[str, int]]:
        none = self.without()
        return [*self.counts().items(), *([("no label", none)] if none else [])]

    def headline(self) -> str:
        return f"{len(self):,} images with {len(self.images.classes)} labels"

    def span(self) -> str:
        return f"{least_and_most(self.counts(), 'label')} {self.without():,} images have none of them."

    def told(self, figure: float) -> str:
        return f"What the other images say of an image's labels has an F1 of {figure:.2f} (1 is perfect)."
