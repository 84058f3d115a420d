"""The same trials measured by two versions of the code: what a change did to each arm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from benchmarks.regret.ledger import KEY, Row

_SAME = tuple(name for name in KEY if name != "code")


def later_section(rows: Sequence[Row], code: str, later: str) -> str:
    """A table of accuracy with ``later`` minus accuracy with ``code``, in points, by backbone, size and arm."""
    found = {
        wanted: {tuple(row[k] for k in _SAME): row for row in rows
                 if row["code"] == wanted and row["status"] == "ok"}
        for wanted in (code, later)
    }  # fmt: skip
    groups: dict[tuple[str, int, str, str], list[float]] = defaultdict(list)
    for key in found[code].keys() & found[later].keys():
        before, after = found[code][key], found[later][key]
        size = before["size"]
        order = int(size) if size.isdigit() else 10**9
        change = 100 * (float(after["accuracy"]) - float(before["accuracy"]))
        groups[before["backbone"], order, size, before["arm"]].append(change)
    title = f"### The same trials with {code} and with {later}\n"
    if not groups:
        return f"{title}\nNo trial was measured with both.\n"
    lines = [title, "| backbone | images a class | arm | trials | mean change | standard error | worst | best |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for (backbone, _, size, arm), changes in sorted(groups.items()):
        n = len(changes)
        error = f"{np.std(changes, ddof=1) / np.sqrt(n):.2f}" if n > 1 else "-"
        lines.append(
            f"| {backbone.partition('@')[0]} | {size} | {arm} | {n} | {np.mean(changes):+.2f} | {error} | "
            f"{min(changes):+.1f} | {max(changes):+.1f} |"
        )
    lines += ["", f"Test accuracy with {later} minus with {code}, in points; every other table is of {code}. Trials of one "
              "data set share test images, so the standard error is too small."]  # fmt: skip
    return "\n".join(lines) + "\n"
