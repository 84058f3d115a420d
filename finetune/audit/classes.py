"""Truths of images that have one class each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.audit.labels import SCORE, held_out, suspects
from finetune.audit.truths import Judgement, Truths, imbalance, least_and_most


class Classes(Truths[int]):
    """One class of several, by its number."""

    noun = "label"
    torn = "copies under several labels"
    contradiction = "The same picture under more than one class"
    contradiction_means = "At least one of the labels is wrong, or the classes overlap."
    doubts = "Labels to look at"
    doubts_mean = ("What the other images say contradicts the label. The surest first; expect about half of them to be "
                   "right after all.")  # fmt: skip
    alike = "of the same class"

    def given(self, index: int) -> int:
        return int(self.images.labels[index])

    def plain(self, answer: int) -> Any:
        return self.images.classes[answer]

    def shown(self, answer: int) -> str:
        return self.images.classes[answer]

    def overrides(self) -> tuple[str, ...]:
        return ()

    def contradict(self, group: Sequence[int]) -> bool:
        return len({self.given(i) for i in group}) > 1

    def judge(self, taps: Sequence[np.ndarray], copies: Sequence[Sequence[int]]) -> Judgement[int]:
        """Confident learning: see ``finetune.audit.labels``."""
        labels = self.images.labels
        log_p = held_out(taps, labels, len(self.images.classes), copies)
        if log_p is None:
            return Judgement()
        found = tuple((s.index, s.suggested, s.score) for s in suspects(log_p, labels) if s.score >= SCORE)
        seen = ~np.isnan(log_p).any(axis=1)
        right = float((log_p[seen].argmax(axis=1) == labels[seen]).mean()) if seen.any() else math.nan
        return Judgement(found, None if math.isnan(right) else right)

    def counts(self) -> dict[str, int]:
        """Images of each class."""
        found = np.bincount(self.images.labels, minlength=len(self.images.classes))
        return {name: int(n) for name, n in zip(self.images.classes, found, strict=True)}

    def facts(self) -> dict[str, Any]:
        counts = self.counts()
        return {"classes": counts, "imbalance": imbalance(counts)}

    def bars(self) -> list[tuple[str, int]]:
        return list(self.counts().items())

    def headline(self) -> str:
        return f"{len(self):,} images of {len(self.images.classes)} classes"

    def span(self) -> str:
        return least_and_most(self.counts(), "class")

    def told(self, figure: float) -> str:
        return f"A linear classifier that never saw an image names its class in {100 * figure:.1f}% of cases."
