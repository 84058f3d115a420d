"""python -m benchmarks.coach make | judge: see docs/coach.md."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.coach.judge import TABLE, judge, rates, table
from benchmarks.coach.settings import HARMFUL, HARMFUL_IN, PARTS, Setting, drawn, settings
from benchmarks.coach.store import FILE, Curve, pack, read, write

HARM = 0.03
"""Validation accuracy that a fault must cost in the last parts."""
MOST_DRAWS = 20


def make(part: str | None = None) -> None:
    """Train every curve, or those of one part and keep the others; about fifteen minutes of one core for all."""
    import torch

    torch.set_num_threads(1)
    kept = {c.setting.name: c for c in read()} if part and FILE.exists() else {}
    lines, began = [], time.process_time()
    for setting in settings():
        curve = _made(setting) if part in (None, setting.part) else kept[setting.name]
        lines.append(pack(curve.setting, curve.rows, curve.facts))
        print(f"{setting.name}: {len(curve.rows)} rows, {time.process_time() - began:.0f} s", flush=True)
    write(lines)


def _made(first: Setting) -> Curve:
    """The curve of a setting; in the last parts of the first draw that does harm."""
    from benchmarks.coach.curves import train

    rows, facts = train(first)
    if first.part not in HARMFUL_IN or first.fault not in HARMFUL:
        return Curve(first, facts, rows)
    number = int(first.name.rpartition("/")[2])
    for draw in range(MOST_DRAWS):
        faulty, whole = drawn(first.part, first.fault, number, draw)
        if draw:
            rows, facts = train(faulty)
        if accuracy(train(whole)[0]) - accuracy(rows) >= HARM:
            return Curve(faulty, facts, rows)
    raise SystemExit(f"{first.name}: none of {MOST_DRAWS} draws did harm.")


def accuracy(rows: Iterable[Mapping[str, Any]]) -> float:
    """Median validation accuracy of the last three epochs; 0 where training ended in no number."""
    rows = list(rows)
    found = [row["val_accuracy"] for row in rows if row["kind"] == "epoch"][-3:]
    return 0.0 if rows[-1]["kind"] == "diverged" or not found else float(statistics.median(found))


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the curves, or judge the coach by them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coach", description=__doc__)
    parser.add_argument("command", choices=("make", "judge"))
    parser.add_argument(
        "--part", choices=PARTS, help="make this part only, or look at it only and write no table"
    )
    options = parser.parse_args(arguments)
    if options.command == "make":
        make(options.part)
    judged = judge(read())
    if options.part is None:
        TABLE.write_text(table(judged), encoding="utf-8")
    for part in PARTS if options.part is None else (options.part,):
        own = [j for j in judged if j.part == part]
        print(part, {key: round(value, 3) for key, value in rates(own).items()})
        for j in own:
            if not j.right:
                print(f"  {j.name}: {j.truth}, said {', '.join(j.top)}: {j.said[0].text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
