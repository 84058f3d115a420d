"""python -m benchmarks.coach make | judge: see docs/coach.md."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from benchmarks.coach.judge import TABLE, judge, rates, table
from benchmarks.coach.settings import PARTS, settings
from benchmarks.coach.store import pack, read, write


def make() -> None:
    """Train every curve; about ten minutes of one core."""
    import torch

    from benchmarks.coach.curves import train

    torch.set_num_threads(1)
    lines, began = [], time.process_time()
    for setting in settings():
        rows, facts = train(setting)
        lines.append(pack(setting, rows, facts))
        print(f"{setting.name}: {len(rows)} rows, {time.process_time() - began:.0f} s", flush=True)
    write(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the curves, or judge the coach by them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coach", description=__doc__)
    parser.add_argument("command", choices=("make", "judge"))
    parser.add_argument("--part", choices=PARTS, help="look at this part only; writes nothing")
    options = parser.parse_args(arguments)
    if options.command == "make":
        make()
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
