"""Targets made from one data set: what turning similarity alone does to the arms and to ``auto``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from benchmarks.regret.arms import AUTO
from benchmarks.regret.cases import DIAL, size_order
from benchmarks.regret.ledger import Row

Unit = tuple[str, str]
"""Images a class, and the dial."""


def dial_section(rows: Sequence[Row]) -> str:
    """A table of each dial and size, farthest last, then what one arm for all of them would lose.

    Regret is in hindsight, below the arm of the best mean over the seeds: an upper bound, for there are few seeds.
    """
    accuracy: dict[Unit, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    near: dict[Unit, list[float]] = defaultdict(list)
    parents = set()
    for row in rows:
        if DIAL not in row["data"] or row["status"] != "ok":
            continue
        parent, _, dial = row["data"].partition(DIAL)
        unit = (row["size"], dial)
        parents.add(parent)
        accuracy[unit][row["arm"]].append(100 * float(row["accuracy"]))
        if row["arm"] == AUTO:
            near[unit].append(float(row["similarity"]))
    title = "### Similarity turned, content kept\n"
    units = sorted(
        (unit for unit in accuracy if near[unit]), key=lambda u: (size_order(u[0]), -float(np.mean(near[u])))
    )
    if not units:
        return f"{title}\nNot measured.\n"
    means = {unit: {arm: float(np.mean(found)) for arm, found in accuracy[unit].items()} for unit in units}
    lines = [title, f"Targets made from {', '.join(sorted(parents))}: the same images, inverted, as edges, ...\n",
             "| images a class | dial | seeds | similarity | linear | best arm | auto | regret, hindsight |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    lost: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for unit in units:
        found = {arm: mean for arm, mean in means[unit].items() if arm != AUTO}
        best = max(found, key=lambda arm: found[arm])
        auto = means[unit][AUTO]
        for arm, mean in means[unit].items():
            lost[unit[0]][arm].append(found[best] - mean)
        lines.append(
            f"| {unit[0]} | {unit[1]} | {len(near[unit])} | {np.mean(near[unit]):.2f} | {found['linear']:.1f} | "
            f"{best} {found[best]:.1f} | {auto:.1f} | {found[best] - auto:.1f} |"
        )
    for size, arms in lost.items():
        whole = [(arm, float(np.mean(gaps))) for arm, gaps in arms.items() if len(gaps) == len(arms[AUTO])]
        said = ", ".join(f"{arm} {gap:.2f}" for arm, gap in sorted(whole, key=lambda pair: pair[1]))
        lines += ["", f"Mean regret in hindsight at {size} a class, each arm always: {said}."]
    return "\n".join(lines) + "\n"
