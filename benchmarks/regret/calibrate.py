"""Fitted rules, judged where they were not fitted: on the families of data sets that were left out.

The thresholds of the table, and rules that go by a single score, are fitted on all families but one and choose on that
one, in turn. Relatives share a family, so that nobody is judged on a twin of what he learnt from.
"""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from benchmarks.regret.results import Trial
from benchmarks.regret.rivals import Chooser, Rival, best_arm
from finetune.strategy.decision import decide, similarity_of
from finetune.strategy.measure import Evidence, Score
from finetune.strategy.table import THRESHOLDS, Thresholds, amount_of, cell_of

Fit = Callable[[Sequence[Trial]], Chooser]

_FACTORS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.5, 2.0, 3.0, 5.0)
"""What counts are multiplied by in the search."""
_SHARES = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Where shares are looked for."""
_SWEEPS = 3
_CUTS = 40


def evidence_of(record: Mapping[str, Any]) -> Evidence:
    """The Evidence that a decision was made from, as decision.json kept it. Raises ValueError for another shape."""
    tree = record["decision"]["evidence"]
    names = [f.name for f in fields(Evidence)]
    try:
        return Evidence(**{name: _restored(tree[name]) for name in names if name in tree})
    except TypeError as error:
        raise ValueError(f"The stored evidence is of another version: {error}. Measure auto again.") from None


def _restored(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"value", "se"}:
        return Score(**value)
    if isinstance(value, list):
        return tuple(_restored(item) for item in value)
    return value


@functools.lru_cache(maxsize=2**18)
def decided(evidence: Evidence, cut: Thresholds = THRESHOLDS) -> str:
    """The selector's choice from the evidence; remembered, for the searches of all families try the same cuts."""
    return decide(evidence, cut).chosen


def by_thresholds(cut: Thresholds) -> Chooser:
    """The selector with other thresholds."""

    def choose(trial: Trial) -> str | None:
        return None if trial.record is None else trial.arm_of(decided(evidence_of(trial.record), cut))

    return choose


def fit_thresholds(trials: Sequence[Trial], start: Thresholds = THRESHOLDS) -> Thresholds:
    """The thresholds whose choices are most accurate on these trials, each data set counted once.

    One threshold after the other is moved to its best value, until none moves (at most three sweeps). A threshold
    only moves for a gain: what changes nothing stays where it was. Whatever fields Thresholds has are searched:
    shares over (0, 1), counts by factors.
    """
    known = [(t, evidence_of(t.record)) for t in trials if t.record is not None]
    weights = _weights([t for t, _ in known])

    def merit(cut: Thresholds) -> float:
        total = 0.0
        for (trial, evidence), weight in zip(known, weights, strict=True):
            arm = trial.arm_of(decided(evidence, cut))
            total += weight * (0.0 if arm is None else trial.arms[arm].accuracy)
        return total

    best, value = start, merit(start)
    for _ in range(_SWEEPS):
        before = best
        for field in fields(Thresholds):
            for candidate in _candidates(getattr(start, field.name)):
                moved = replace(best, **{field.name: candidate})
                if _sensible(moved) and (found := merit(moved)) > value + 1e-9:
                    best, value = moved, found
        if best == before:
            break
    return best


def _candidates(default: float) -> list[Any]:
    if isinstance(default, float) and 0 < default < 1:
        return list(_SHARES)
    made = [default * factor for factor in _FACTORS]
    return [round(v) for v in made] if isinstance(default, int) else made


def _sensible(cut: Thresholds) -> bool:
    """A lower cut must not lie above the upper one."""
    names = [
        ("little_per_class", "lots_per_class"),
        ("little_images", "lots_images"),
        ("different", "middle"),
        ("middle", "similar"),
    ]
    inf = math.inf
    return all(getattr(cut, low, -inf) <= getattr(cut, high, inf) for low, high in names)


def left_out(name: str, how: str, trials: Sequence[Trial], fit: Fit) -> Rival | None:
    """A fitted rule's scores, each family chosen for by a fit that never saw it; None with a single family."""
    families = sorted({trial.family for trial in trials})
    if len(families) < 2:
        return None
    scores, compute = {}, {}
    for family in families:
        seen = [t for t in trials if t.family != family]
        choose = fit(seen)
        for trial in (t for t in trials if t.family == family):
            arm = choose(trial)
            if arm is not None and arm in trial.arms:
                scores[trial.key] = trial.arms[arm].accuracy
                compute[trial.key] = trial.arms[arm].seconds
    return Rival(name, how, scores, compute) if scores else None


def calibrated(trials: Sequence[Trial]) -> Rival | None:
    """The selector with thresholds that were fitted on the other families."""
    known = [t for t in trials if t.record is not None]
    how = "its choice, thresholds fitted on the other families"
    return left_out("auto, thresholds left out", how, known, lambda seen: by_thresholds(fit_thresholds(seen)))


def cell_now(trial: Trial) -> tuple[str, str]:
    """Where the trial falls in the table by today's thresholds. Its evidence must have been kept."""
    evidence = evidence_of(trial.record or {})
    return cell_of(amount_of(evidence.n, evidence.median), similarity_of(evidence)[0])


def arm_a_cell(trials: Sequence[Trial]) -> Rival | None:
    """For each cell of the table the arm that was best in it on the other families.

    Of what auto does this leaves out which strategy stands in which cell. Where the others have nothing in a cell, it
    is the best arm over all of theirs.
    """
    known = [t for t in trials if t.record is not None]
    cells = {t.key: cell_now(t) for t in known}

    def fit(seen: Sequence[Trial]) -> Chooser:
        groups: dict[tuple[str, str], list[Trial]] = defaultdict(list)
        for trial in seen:
            groups[cells[trial.key]].append(trial)
        best = {cell: best_arm(members) for cell, members in groups.items()}
        anywhere = best_arm(seen)
        return lambda trial: best.get(cells[trial.key], anywhere)

    return left_out("an arm a cell, left out", "the best arm of each cell on the other families", known, fit)


# --- a single score -----------------------------------------------------------------------------------------


def scorers(trial: Trial) -> dict[str, float]:
    """Figures that are known before anything is trained."""
    found = {"images a class": trial.train_n / trial.classes, "images": float(trial.train_n)}
    if trial.record is None:
        return found
    tree, evidence = trial.record, evidence_of(trial.record)
    found |= {
        "last-stage accuracy": evidence.last.value,
        "gain of earlier stages": evidence.gain,
        "nearest neighbours": evidence.knn,
    }
    optional = {
        "LogME": tree.get("logme"),
        "source distance": evidence.source_distance,
        "similarity": tree["decision"].get("similarity"),
    }
    return found | {name: float(value) for name, value in optional.items() if value is not None}


@dataclass(frozen=True)
class Split:
    """One arm below a value of a score, another from it on."""

    scorer: str
    cut: float
    below: str
    above: str
    merit: float
    """Mean accuracy on the trials it was fitted on."""

    def choose(self, trial: Trial) -> str | None:
        """None where the trial lacks the score."""
        value = scorers(trial).get(self.scorer)
        return None if value is None else (self.below if value < self.cut else self.above)


def fit_split(trials: Sequence[Trial], scorer: str) -> Split | None:
    """The cut and the two arms of best mean accuracy; None where no trial has the score.

    This is the strongest rule of its kind: both arms and the threshold are free.
    """
    known = [(t, v) for t in trials if (v := scorers(t).get(scorer)) is not None and math.isfinite(v)]
    if not known:
        return None
    arms = list(known[0][0].arms)
    values = np.array([v for _, v in known])
    weights = np.array(_weights([t for t, _ in known]))
    table = np.array([[t.arms[name].accuracy for name in arms] for t, _ in known]) * weights[:, None]
    distinct = np.unique(values)
    cuts = np.concatenate([[-np.inf], (distinct[:-1] + distinct[1:]) / 2])
    if len(cuts) > _CUTS:
        cuts = np.quantile(cuts[1:], np.linspace(0, 1, _CUTS))
        cuts = np.concatenate([[-np.inf], cuts])
    best: Split | None = None
    for cut in cuts:
        under = values < cut
        below, above = table[under].sum(axis=0), table[~under].sum(axis=0)
        merit = float(below.max() + above.max())
        if best is None or merit > best.merit + 1e-12:
            low = arms[int(below.argmax())] if under.any() else arms[int(above.argmax())]
            best = Split(scorer, float(cut), low, arms[int(above.argmax())], merit)
    return best


def single_scorers(trials: Sequence[Trial]) -> list[Rival]:
    """LogME with a threshold, and the best of all single scores, both fitted on the other families."""
    known = [t for t in trials if t.record is not None]

    def logme_rule(seen: Sequence[Trial]) -> Chooser:
        split = fit_split(seen, "LogME")
        return split.choose if split else lambda trial: None

    def best_rule(seen: Sequence[Trial]) -> Chooser:
        names = sorted({name for t in seen for name in scorers(t)})
        splits = [s for name in names if (s := fit_split(seen, name)) is not None]
        return max(splits, key=lambda s: s.merit).choose if splits else lambda trial: None

    found = [
        left_out("LogME threshold", "two arms and a cut, fitted on the other families", known, logme_rule),
        left_out(
            "best of the single scores", "score, cut and arms fitted on the other families", known, best_rule
        ),
    ]
    return [rival for rival in found if rival is not None]


def _weights(trials: Sequence[Trial]) -> list[float]:
    """Each data set weighs the same, its trials share its weight."""
    counts = Counter((t.backbone, t.data) for t in trials)
    return [1 / (len(counts) * counts[t.backbone, t.data]) for t in trials]
