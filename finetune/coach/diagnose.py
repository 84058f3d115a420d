"""From rows and facts to findings, the ones that explain others first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from finetune.coach.breakage import bad_initialisation, diverged, lr_too_high, wrong_direction
from finetune.coach.curve import Curve
from finetune.coach.finding import NAMES, RANK, Facts, Finding
from finetune.coach.generalising import label_noise, overfitting, validation_too_small
from finetune.coach.progress import lr_too_low, plateau, underfitting

Rule = Callable[[Curve], Finding | None]

EARLY: tuple[Rule, ...] = (wrong_direction, diverged, lr_too_high)
"""Rules that may speak while the phase runs."""
AT_THE_END: tuple[Rule, ...] = (
    *EARLY, bad_initialisation, lr_too_low, label_noise, overfitting, plateau, underfitting, validation_too_small,
)  # fmt: skip

EXPLAINS: dict[str, tuple[str, ...]] = {
    "wrong direction": tuple(n for n in NAMES if n not in ("wrong direction", "diverged")),
    "diverged": tuple(n for n in NAMES if n not in ("wrong direction", "diverged")),
    "lr too high": (
        "bad initialisation",
        "lr too low",
        "label noise",
        "overfitting",
        "plateau",
        "underfitting",
    ),
    "bad initialisation": ("lr too low", "plateau", "underfitting"),
    "lr too low": ("plateau", "underfitting", "label noise"),
    "label noise": ("underfitting", "plateau"),
}
"""What a finding makes of others: its consequences are not reported beside it."""


def diagnose(rows: Iterable[Mapping[str, Any]], facts: Facts) -> list[Finding]:
    """Findings about the rows (of metrics.jsonl) of one phase, worst first; ``healthy`` alone where there is none.

    Empty where there is nothing to judge yet.
    """
    curve = Curve(rows, facts)
    if curve.empty:
        return []
    found = {
        f.name: f for rule in (AT_THE_END if facts.finished else EARLY) if (f := rule(curve)) is not None
    }
    hidden = {other for name in found for other in EXPLAINS.get(name, ())}
    left = [f for name, f in found.items() if name not in hidden]
    return sorted(left, key=lambda f: (RANK[f.severity], NAMES.index(f.name))) or [_healthy(curve)]


def diagnose_phases(rows: Iterable[Mapping[str, Any]], facts: Mapping[int, Facts]) -> list[Finding]:
    """Findings about all phases of a run, each name once, the first phase's; ``healthy`` only where all are."""
    found: dict[str, Finding] = {}
    by_phase: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_phase.setdefault(int(row.get("phase_index", 0)), []).append(row)
    for index, own in sorted(by_phase.items()):
        name = str(own[0].get("phase", "")) or None
        for finding in diagnose(own, facts.get(index, Facts())):
            found.setdefault(finding.name, replace(finding, phase=name))
    if len(found) > 1:
        found.pop("healthy", None)
    return sorted(found.values(), key=lambda f: (RANK[f.severity], NAMES.index(f.name)))


def _healthy(curve: Curve) -> Finding:
    if not curve.facts.finished:
        done = f"{len(curve.epochs)} of {curve.planned_epochs} epochs"
        return Finding("healthy", "note", f"Nothing to say so far ({done}).")
    if curve.facts.task != "single-label":
        return Finding(
            "healthy", "note",
            f"The loss tells of nothing wrong (from {curve.start:.3g} to {curve.end:.3g}); what the coach reads from "
            "accuracies it cannot say here.",
        )  # fmt: skip
    last = curve.scored[-1].val_accuracy if curve.scored else None
    known = {"training accuracy": curve.accuracy, "validation accuracy": last}
    shown = "".join(f", {name} {100 * value:.0f}%" for name, value in known.items() if value is not None)
    return Finding(
        "healthy", "note",
        f"The curves look healthy: the loss {'fell' if curve.end < curve.start else 'went'} from {curve.start:.3g} to "
        f"{curve.end:.3g}{shown}.",
    )  # fmt: skip
