"""The decision: both axes with their numbers, the cell, the choice, the runner-up and the reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from finetune.errors import StrategyError, must
from finetune.strategy.context import Context
from finetune.strategy.measure import Evidence
from finetune.strategy.outlook import more_images_for
from finetune.strategy.similarity import similarity_of
from finetune.strategy.table import (
    TEXTBOOK,
    THRESHOLDS,
    Amount,
    Column,
    Likeness,
    Row,
    Thresholds,
    amount_of,
    cell_of,
    likeness_of,
    render,
)
from finetune.strategy.wording import WORDS, Words

TINY = 3.0
"""Below this median of images a class the heads alone are trained, however far the source is."""

SHRUNK = 2 / 3
"""Images smaller than this share of the size that a network was trained at meet features that do not fit as they are
(arXiv 1906.06423), however well they separate the classes."""

SOLVED = 0.005
"""A leave-one-out error of the linear head below this leaves tuning nothing to win."""


@dataclass(frozen=True)
class Decision:
    """What was chosen and why. ``to_dict`` is decision.json."""

    amount: Amount
    similarity: float | None
    """In [0, 1]; None where nothing was measured because the strategy was given."""
    cell: tuple[Row, Column] | None
    chosen: str
    runner_up: str | None
    reasons: tuple[str, ...]
    expected: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Strategy -> (accuracy, standard error), shares, where it could be measured without training."""
    evidence: Evidence | None = None
    race: tuple[Mapping[str, Any], ...] = ()
    """What each arm did in each round of a race, where there was one."""
    cut: Thresholds = THRESHOLDS
    """Where the axes were cut."""
    unfit: Mapping[str, str] = field(default_factory=dict)
    """Strategy -> why the network cannot be trained so, in a few words."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "amount": self.amount,
            "similarity": None if self.similarity is None else round(self.similarity, 3),
            "likeness": self.likeness,
            "thresholds": {
                **asdict(self.cut),
                "tiny_per_class": TINY,
                "shrunk": SHRUNK,
                "solved": SOLVED,
            },
            "cell": None if self.cell is None else f"{self.cell[0]}, {self.cell[1]}",
            "chosen": self.chosen,
            "runner_up": self.runner_up,
            "reasons": list(self.reasons),
            "evidence": {
                **({} if self.evidence is None else self.evidence.to_dict()),
                "expected": {k: {self.measure: a, "se": se} for k, (a, se) in self.expected.items()},
                **({"race": [dict(lap) for lap in self.race]} if self.race else {}),
            },
        }

    @property
    def likeness(self) -> Likeness | None:
        """The similarity in a word; None where nothing was measured."""
        return None if self.similarity is None else likeness_of(self.similarity, self.cut)

    @property
    def measure(self) -> str:
        """What ``expected`` says: accuracies, or the evidence's own measure."""
        return "accuracy" if self.evidence is None else self.evidence.measure

    def table(self) -> str:
        """The 2x2 table with the cell marked."""
        return render(self.cell)


def neighbours(decision: Decision) -> tuple[str, ...]:
    """The strategies that a race compares: the chosen one first, the runner-up, then those of the cells that share
    a row or a column with the decision's own. Those that the network cannot be trained by (``unfit``) are left out.

    Raises StrategyError where nothing was decided.
    """
    if decision.cell is None:
        raise StrategyError(must("a race", "a decision of strategy auto", f"strategy {decision.chosen}"))
    row, column = decision.cell
    beside = [TEXTBOOK[cell][0] for cell in TEXTBOOK if (cell[0] == row) or (cell[1] == column)]
    tuned_little = ["norm-bias", "lora"] if row == "very little data" and column == "very different" else []
    named = [decision.chosen, decision.runner_up, TEXTBOOK[decision.cell][0], *tuned_little, *beside]
    return tuple(dict.fromkeys(name for name in named if name and name not in decision.unfit))


def given(ctx: Context, strategy: str) -> Decision:
    """The decision where the user made it; nothing is measured."""
    return Decision(
        amount=amount_of(ctx.n_train, ctx.median), similarity=None, cell=None,
        chosen=strategy, runner_up=None,
        reasons=(f"{strategy} was asked for; strategy=auto would measure and choose.",),
    )  # fmt: skip


def decide(evidence: Evidence, cut: Thresholds = THRESHOLDS) -> Decision:
    """From evidence to a strategy: the table, leaning towards tuning unless the data are tiny."""
    amount = amount_of(evidence.n, evidence.median, cut)
    similarity, because = similarity_of(evidence)
    cell = cell_of(amount, similarity, cut)
    linear = evidence.shown(evidence.last)
    multi = evidence.shown(max((evidence.last, evidence.concat), key=lambda score: score.value))
    words = WORDS[evidence.measure]
    reasons = [
        words.amount(evidence, amount),
        f"Similarity: {similarity:.2f}, {likeness_of(similarity, cut)}: {'; '.join(because)}.",
        *words.axes,
    ]
    if not evidence.blind:
        reasons.append(words.stages(evidence))
        if evidence.guessing:
            reasons.append(words.guessing(evidence))
    chosen, runner_up, why = _choose(evidence, cell, linear, multi, likeness_of(similarity, cut))
    reasons.append(why)
    textbook = TEXTBOOK[cell][0]
    if chosen != textbook:
        reasons.append(f"The textbook's table would say {textbook} for this cell.")
    more = more_images_for(evidence, 0.05)
    if more is not None:
        reasons.append(
            f"About {two_digits(more)} more images a class should give the linear head 5 points more."
        )
    return Decision(
        amount=amount, similarity=similarity, cell=cell,
        chosen=chosen, runner_up=runner_up, reasons=tuple(reasons),
        expected={} if evidence.blind else {"linear": linear, "multistage": multi}, evidence=evidence, cut=cut,
    )  # fmt: skip


def informed(given: Decision, ctx: Context) -> Decision:
    """The user's choice, with what was measured and what auto would have chosen beside it."""
    found = decide(ctx.evidence)
    agrees = found.chosen == given.chosen
    said = f"{given.chosen} was asked for; auto would choose {'it too' if agrees else found.chosen}."
    return replace(
        found,
        chosen=given.chosen,
        runner_up=found.runner_up if agrees else found.chosen,
        reasons=(said, *found.reasons),
    )


def _choose(
    evidence: Evidence,
    cell: tuple[Row, Column],
    last: tuple[float, float],
    joined: tuple[float, float],
    likeness: Likeness,
) -> tuple[str, str, str]:
    """Chosen, runner-up, and why the one and not the other. ``last``: what a linear head on the last stage reaches,
    ``joined``: one on several; each with its standard error."""
    linear = last[0]
    row, column = cell
    near, shrunk = column == "very similar", evidence.scale < SHRUNK
    sure = likeness == "very similar" and not shrunk
    place = {
        "very similar": "Near the source",
        "very different": "Far from the source",
        "in between": "Nearer to the source than far" if near else "Not near the source",
    }[likeness]
    small = f"the network looks at images of {evidence.scale:.0%} of the size that it was trained at"
    words = WORDS[evidence.measure]
    if 1 - linear < SOLVED:
        return (
            "linear",
            "partial",
            f"{words.solved(linear)}: partial has nothing left to win."
            if evidence.measured * SOLVED >= 1
            else f"{words.solved(linear)}, each of {evidence.measured} left out in turn: too few to say how good it "
            "is, but they leave tuning nothing to learn from.",
        )
    if evidence.median < TINY:
        first = "linear" if near else "multistage"
        second = "multistage" if first == "linear" else "linear"
        return (
            first,
            second,
            f"With {evidence.median:g} image{'' if evidence.median == 1 else 's'} a {words.unit} tuning the network "
            f"fits the noise; {second} is next.",
        )
    if row == "very little data":
        if sure:
            return (
                "linear",
                "partial",
                f"{place}, the last stage fits already; partial gains little from few images.",
            )
        if near:
            return (
                "full",
                "linear",
                f"{place}, but {small if shrunk else 'not beyond doubt'}, and then tuning was ahead of the linear head "
                "in our measurements even with few images; where it does harm the safety net keeps the head.",
            )
        return "full", "multistage", (
            f"{place}, the features must move, even for few images; earlier stages alone (multistage) "
            f"{_added(last, joined, words)}."
        )  # fmt: skip
    if near and shrunk:
        return "full", "partial", f"{place}, but {small}: everything must move."
    if near:
        return (
            "partial",
            "lp-ft",
            f"{place}, the early stages fit; lp-ft would cost more time and move what is right.",
        )
    return (
        "full",
        "lp-ft",
        f"{place}, everything must move; lp-ft, which keeps the stem, was behind in our measurements.",
    )


def _added(last: tuple[float, float], joined: tuple[float, float], words: Words) -> str:
    """What earlier stages do for the linear head. Both errors count, as if of different images."""
    gain, noise = joined[0] - last[0], math.hypot(last[1], joined[1])
    if gain > noise:
        return f"add {words.gain(gain)} to the linear head"
    return "do not help the linear head" + (" beyond the noise" if gain > 0 else "")


def two_digits(number: int) -> str:
    """A rough figure as one: two digits that mean something.

    >>> two_digits(7), two_digits(83), two_digits(1574)
    ('7', '83', '1,600')
    """
    return f"{round(number, 2 - len(str(number))):,}"
