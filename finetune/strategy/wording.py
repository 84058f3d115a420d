"""The sentences of a decision that depend on what was measured: accuracies, average precision, or R2."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

from finetune.strategy.measure import Evidence


class Words(ABC):
    """What is said of a task; ``axes`` is about the table's axes where they are not those that it was made for."""

    axes: tuple[str, ...] = ()
    unit, units = "class", "classes"
    guessed = "tells the classes from guessing"

    def amount(self, evidence: Evidence, amount: str) -> str:
        """How much there is to learn from."""
        return (
            f"Amount: {amount}: {evidence.n} images, median {evidence.median:g} a {self.unit}, "
            f"{evidence.num_classes} {self.units}."
        )

    @abstractmethod
    def figure(self, value: float) -> str:
        """A figure on its own."""

    @abstractmethod
    def solved(self, linear: float) -> str:
        """A linear head that is all but perfect."""

    def stages(self, evidence: Evidence) -> str:
        """What linear heads get out of the stages."""
        (value, se), named = evidence.shown(evidence.last), self.figure
        each = ", ".join(named(evidence.shown(score)[0]) for score in evidence.stages)
        return (
            f"A linear head on the last stage has {named(value)} (+-{named(se)}) on images that it has not seen; stage "
            f"by stage {each}, joined {named(evidence.shown(evidence.concat)[0])}."
        )

    def guessing(self, evidence: Evidence) -> str:
        """That no head knows more than chance does, as far as these images can tell."""
        value, se = evidence.shown(evidence.best)
        return (
            f"No stage {self.guessed}: the best has {self._beside_chance(value, se, evidence)}. The labels may have "
            "nothing to do with the images, or the images are too few to tell: look at them (finetune data check)."
        )

    def _beside_chance(self, value: float, se: float, evidence: Evidence) -> str:
        return f"{self.figure(value)} (+-{se:.2f}) where guessing has 0"

    def gain(self, value: float) -> str:
        """What earlier stages add."""
        return self.figure(value)


@final
class _Accuracy(Words):
    def figure(self, value: float) -> str:
        return f"{100 * value:.0f}"

    def stages(self, evidence: Evidence) -> str:
        value, se = evidence.shown(evidence.last)
        stages = ", ".join(self.figure(evidence.shown(score)[0]) for score in evidence.stages)
        alike = ", taking all classes for equally frequent," if evidence.uneven else ""
        return (
            f"A linear head on the last stage gets {100 * value:.1f}% (+-{100 * se:.1f}){alike} on images that it has "
            f"not seen; stage by stage {stages}, joined {self.figure(evidence.shown(evidence.concat)[0])}."
        )

    def _beside_chance(self, value: float, se: float, evidence: Evidence) -> str:
        return f"{100 * value:.1f}% (+-{100 * se:.1f}) where chance is {100 / evidence.num_classes:.1f}%"

    def solved(self, linear: float) -> str:
        return f"The linear head errs on {100 * (1 - linear):.1f}% of images"

    def gain(self, value: float) -> str:
        return f"{100 * value:.1f} points"


@final
class _Labels(Words):
    unit, units = "label", "labels"
    guessed = "ranks the labels better than guessing"
    axes = (
        "The table is made for classes: here its rows count the images of a label, and similarity comes from the "
        "average precision of linear heads, 0 for guessing and 1 for a perfect ranking.",
    )

    def figure(self, value: float) -> str:
        return f"{value:.2f}"

    def solved(self, linear: float) -> str:
        return f"The linear head ranks all but perfectly ({linear:.3f})"


@final
class _Number(Words):
    unit = "tenth of the numbers"
    guessed = "says more of the numbers than their mean"
    axes = (
        "The table is made for classes: here its rows count the images of each tenth of the numbers, and similarity "
        "comes from R2 of linear heads.",
    )

    def amount(self, evidence: Evidence, amount: str) -> str:
        return f"Amount: {amount}: {evidence.n} images, {evidence.median:g} of each tenth of the numbers."

    def figure(self, value: float) -> str:
        return f"R2 {value:.2f}"

    def solved(self, linear: float) -> str:
        return f"The linear head explains {100 * linear:.1f}% of the variance"


WORDS: dict[str, Words] = {"accuracy": _Accuracy(), "mean_ap": _Labels(), "r2": _Number()}
"""By what an Evidence measures."""
