"""The same trials measured by two versions of the code: what a change did to each arm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.regret.cases import size_order
from benchmarks.regret.ledger import KEY, Row

_SAME = tuple(name for name in KEY if name != "code")


def later_section(rows: Sequence[Row], versions: Mapping[str, tuple[str, str]], later: str) -> str:
    """A table of accuracy with the code ``later`` minus accuracy with that of the other tables, in points.

    versions: backbone -> (recipe digest, code version) of the other tables.
    """
    codes = sorted({code for _, code in versions.values()})
    found: dict[bool, dict[tuple[str, ...], Row]] = {False: {}, True: {}}
    for row in rows:
        recipe, code = versions.get(row["backbone"], ("", ""))
        if row["status"] == "ok" and row["recipe"] == recipe and row["code"] in (code, later):
            found[row["code"] == later][tuple(row[name] for name in _SAME)] = row
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for key in sorted(found[False].keys() & found[True].keys()):
        before, after = found[False][key], found[True][key]
        change = 100 * (float(after["accuracy"]) - float(before["accuracy"]))
        groups[before["backbone"], before["size"], before["arm"]].append(change)
    title = f"### The same trials with {' and '.join(codes)} and with {later}\n"
    if not groups:
        return f"{title}\nNo trial was measured with both.\n"
    lines = [title, "| backbone | images a class | arm | trials | mean change | standard error | worst | best |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for backbone, size, arm in sorted(groups, key=lambda group: (group[0], size_order(group[1]), group[2])):
        changes = groups[backbone, size, arm]
        n = len(changes)
        error = f"{np.std(changes, ddof=1) / np.sqrt(n):.2f}" if n > 1 else "-"
        lines.append(
            f"| {backbone.partition('@')[0]} | {size} | {arm} | {n} | {np.mean(changes):+.2f} | {error} | "
            f"{min(changes):+.1f} | {max(changes):+.1f} |"
        )
    lines += [
        "",
        f"Test accuracy with {later} minus that of the other tables, in points. Trials of one data set share test "
        "images, so the standard error is too small.",
    ]
    return "\n".join(lines) + "\n"
