"""What each part of the evidence is worth: the selector decides again with a part of it taken away.

Taking away means: the part's figure is set to the median over the other families, so that it says the same of every
data set. That needs no switch in the selector and stays right when its formula changes. Choices are scored by the arms'
rows; nothing is trained, but for the safety net, whose arms have rows of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.regret.arms import NET
from benchmarks.regret.calibrate import decided, evidence_of
from benchmarks.regret.results import Trial
from benchmarks.regret.rivals import Rival, of_choice
from finetune.strategy.measure import Evidence, Score


@dataclass(frozen=True)
class Usual:
    """What is usual elsewhere, as shares that do not depend on the data set's own difficulty."""

    headroom: float
    """Of the last stage's errors, the share that the stages joined mend."""
    bought: float
    """Of the last stage's accuracy, the share that the first stage lacks."""
    distance: float | None
    share: float | None

    @classmethod
    def of(cls, evidences: Sequence[Evidence]) -> Usual:
        """Medians."""
        distances = [e.source_distance for e in evidences if e.source_distance is not None]
        shares = [e.source_share for e in evidences if e.source_share is not None]
        return cls(
            headroom=float(np.median([e.gain / max(1 - e.last.value, 1e-6) for e in evidences])),
            bought=float(np.median([e.affinity / max(e.last.value, 1e-6) for e in evidences])),
            distance=float(np.median(distances)) if distances else None,
            share=float(np.median(shares)) if shares else None,
        )


def without_stages(evidence: Evidence, usual: Usual) -> Evidence:
    """Earlier stages, alone or joined, mend the usual share of the last one's errors."""
    last = evidence.last
    joined = Score(last.value + usual.headroom * max(0.0, 1 - last.value), last.se)
    first = evidence.stages[0]
    kept = Score(min(first.value, joined.value), first.se)
    middle = tuple(Score(min(s.value, last.value), s.se) for s in evidence.stages[1:-1])
    stages = (kept, *middle, last) if len(evidence.stages) > 1 else (last,)
    return replace(evidence, stages=stages, concat=joined)


def without_affinity(evidence: Evidence, usual: Usual) -> Evidence:
    """Pretraining bought what it usually buys."""
    if len(evidence.stages) < 2:
        return evidence
    last, first = evidence.last, evidence.stages[0]
    return replace(evidence, stages=(Score(last.value * (1 - usual.bought), first.se), *evidence.stages[1:]))


def without_distance(evidence: Evidence, usual: Usual) -> Evidence:
    """As far from the source as usual."""
    if evidence.source_distance is None:
        return evidence
    return replace(evidence, source_distance=usual.distance, source_share=usual.share)


Change = Callable[[Evidence, Usual], Evidence]


def _all(*changes: Change) -> Change:
    def change(evidence: Evidence, usual: Usual) -> Evidence:
        for each in changes:
            evidence = each(evidence, usual)
        return evidence

    return change


ABLATIONS: dict[str, Change] = {
    "without stages": without_stages,
    "without affinity": without_affinity,
    "without distances": without_distance,
    "distances only": _all(without_stages, without_affinity),
    "amount only": _all(without_stages, without_affinity, without_distance),
}


def ablated(trials: Sequence[Trial]) -> list[Rival]:
    """The selector with all its evidence, and with each part of it taken away, at its present thresholds."""
    known = {t.key: evidence_of(t.record) for t in trials if t.record is not None}
    if not known:
        return []
    judged = [t for t in trials if t.key in known]
    usual = {family: _usual(judged, known, family) for family in {t.family for t in judged}}

    def rule(name: str, how: str, change: Change) -> Rival:
        return of_choice(
            name, how, judged, lambda t: t.arm_of(decided(change(known[t.key], usual[t.family])))
        )

    found = [rule("all evidence", "decided again from the stored evidence", lambda e, _: e)]
    found += [rule(name, "decided again", change) for name, change in ABLATIONS.items()]
    net = without_net(judged)
    return [*found, *([net] if net is not None else [])]


def without_net(trials: Sequence[Trial]) -> Rival | None:
    """Auto's choice with an arm that has no safety net in its place; None where none was measured.

    Heads have no net and stay as they are.
    """
    scores = {}
    for trial in trials:
        arm = trial.chosen
        if arm is None:
            continue
        bare = trial.others.get(arm + NET)
        if bare is not None:
            scores[trial.key] = bare.accuracy
        elif arm in ("linear", "multistage"):
            scores[trial.key] = trial.arms[arm].accuracy
    tuned = any(t.chosen and t.chosen + NET in t.others for t in trials)
    return (
        Rival("without the safety net", "the tuned weights, whatever validation says", scores)
        if tuned
        else None
    )


def _usual(trials: Sequence[Trial], known: dict[tuple[str, str, str, str], Evidence], family: str) -> Usual:
    others = [known[t.key] for t in trials if t.family != family]
    return Usual.of(others or [known[t.key] for t in trials])
