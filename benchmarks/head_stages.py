"""Which stages should a linear head read, when images are few?

    python -m benchmarks.head_stages --root DIR [--sizes 5 10 25] [--seeds 3] [--out benchmarks/head_stages.csv]

DIR holds unpacked data sets, a folder each, split and cut to a size as in benchmarks/regret. Each row is a data set at
a size with a seed: test accuracy of heads on the last stage, on the last two, on four, on the set of least
cross-validated log-loss among those three, among those and each earlier stage alone, and on averages of what is tied.
Rows are appended as they are measured and never measured twice; ``--table`` prints their means.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.cells import read
from benchmarks.regret.arms import ARMS
from benchmarks.regret.cases import find_cases, read_families
from benchmarks.regret.measure import Bench
from benchmarks.regret.order import Cell
from finetune.features.outputs import fit_task_probe
from finetune.strategy.plan import ProbePhase

LAST, PAIR, FOUR = (4,), (3, 4), (1, 2, 3, 4)
WITH_LAST = (LAST, PAIR, FOUR)
WITH_SINGLES = (LAST, (3,), (2,), (1,), PAIR, FOUR)
VARIANTS: dict[str, dict[str, Any]] = {
    "last": {"candidates": (LAST,)},
    "last two": {"candidates": (PAIR,)},
    "four": {"candidates": (FOUR,)},
    "best of three": {"candidates": WITH_LAST, "combine": "pick"},
    "best of six": {"candidates": WITH_SINGLES, "combine": "pick"},
    "three averaged": {"candidates": WITH_LAST, "combine": "average"},
    "six averaged": {"candidates": WITH_SINGLES, "combine": "average"},
}
"""Of the embedded backbone's five stages. "Best of six" is what multistage once was."""
COLUMNS = ("data", "size", "seed", "train_n", "test_n", *VARIANTS)


def measure(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Test accuracies of all variants, shares."""
    import numpy as np

    bundle = bench.bundle(cell)
    train, test = bench._features(bundle.train), bench._features(bundle.test)
    row: dict[str, Any] = {"data": cell.case.name, "size": cell.size, "seed": cell.seed,
                           "train_n": len(train.labels), "test_n": len(test.labels)}  # fmt: skip
    for name, keys in VARIANTS.items():
        head = fit_task_probe(bundle.task, ProbePhase(**keys), train.taps, train.labels, train.targets,
                              len(bundle.classes), cell.seed)  # fmt: skip
        answers = np.concatenate([test.taps[i] for i in head.taps], axis=1) @ head.weight.T + head.bias
        row[name] = round(float((answers.argmax(axis=1) == test.labels).mean()), 5)
    return row


def table(rows: list[dict[str, str]]) -> str:
    """Mean accuracy by size, data sets counted once."""
    by: dict[str, dict[str, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by[row["size"]][row["data"]].append(row)
    names = [name for name in VARIANTS if rows and rows[0].get(name)]
    lines = ["| images a class | data sets | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for size, sets in sorted(by.items(), key=lambda item: int(item[0])):
        means = [100 * fmean(fmean(float(r[n]) for r in found) for found in sets.values()) for n in names]
        lines.append(f"| {size} | {len(sets)} | " + " | ".join(f"{m:.1f}" for m in means) + " |")
    return "\n".join(lines)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--sizes", type=int, nargs="*", default=[5, 10, 25])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=["data.image_size=48"], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/head_stages.csv"))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.out)))
        return
    bench = Bench("embedded", options.set, arms=ARMS)
    done = {(r["data"], r["size"], r["seed"]) for r in read(options.out)}
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not done:
            writer.writeheader()
        for seed in range(options.seeds):
            for case in find_cases(options.root, options.data, read_families()):
                for size in case.sizes(options.sizes):
                    if size is None or (case.name, str(size), str(seed)) in done:
                        continue
                    writer.writerow(measure(bench, Cell(case, size, seed, "linear", "-")))
                    file.flush()


if __name__ == "__main__":
    main()
