"""The confusion table: what the coach said about each curve."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.coach.settings import FAULTS
from benchmarks.coach.store import Curve
from finetune.coach.diagnose import diagnose
from finetune.coach.finding import NAMES, Facts, Finding

TABLE = Path(__file__).parent / "confusion.csv"
CLEAN = ("healthy",)


@dataclass(frozen=True)
class Judged:
    """A curve's true fault and what was said."""

    name: str
    part: str
    truth: str
    said: list[Finding]

    @property
    def top(self) -> list[str]:
        """The findings of the highest severity."""
        return [f.name for f in self.said if f.severity == self.said[0].severity]

    @property
    def right(self) -> bool:
        """Whether the fault is among them."""
        return self.truth in self.top

    @property
    def first(self) -> str:
        """What was said first."""
        return self.said[0].name


def truth(curve: Curve) -> str:
    """The fault of the setting; a learning rate so high that the loss is no number is called diverged."""
    broken = any(row["kind"] == "diverged" for row in curve.rows)
    return "diverged" if broken and curve.setting.fault == "lr too high" else curve.setting.fault


def judge(curves: Iterable[Curve]) -> list[Judged]:
    """Ask the coach about each curve."""
    return [
        Judged(c.setting.name, c.setting.part, truth(c), diagnose(c.rows, Facts.from_mapping(c.facts)))
        for c in curves
    ]


def rates(judged: Iterable[Judged]) -> dict[str, float]:
    """Shares of the faults named among the top findings and first, and of false alarms on healthy curves.

    A false alarm is a warning or an error, or the note that the validation set is too small.
    """
    judged = list(judged)
    faulty = [j for j in judged if j.truth not in CLEAN]
    healthy = [j for j in judged if j.truth in CLEAN]
    return {
        "faulty": len(faulty),
        "named": sum(j.right for j in faulty) / len(faulty) if faulty else math.nan,
        "named_first": sum(j.first == j.truth for j in faulty) / len(faulty) if faulty else math.nan,
        "healthy": len(healthy),
        "false_alarms": sum(not j.right for j in healthy) / len(healthy) if healthy else math.nan,
    }


def table(judged: Iterable[Judged]) -> str:
    """CSV: a row a fault, a column for what was said first, and how often the fault was among the top findings."""
    judged = list(judged)
    columns = [*(n for n in NAMES if n in (*FAULTS, *CLEAN))]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["part", "fault", "curves", "named", *columns])
    for part in sorted({j.part for j in judged}):
        for fault in columns:
            own = [j for j in judged if j.part == part and j.truth == fault]
            counts = Counter(j.first for j in own)
            writer.writerow([part, fault, len(own), sum(j.right for j in own), *(counts[c] for c in columns)])
    return out.getvalue()
