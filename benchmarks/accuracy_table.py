"""What benchmarks of accuracies share: the command line, the loop over data sets and seeds, and the table."""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def tabulate(
    name: str, about: str | None, measured: Callable[[Path, int, int, str], Iterable[dict[str, Any]]], *,
    seeds: int, limit: int, summary: Callable[[Rows], list[str]] = lambda rows: [],
) -> None:  # fmt: skip
    """Measure and write benchmarks/NAME.csv.

    ``measured(data, seed, limit, scratch)`` gives the rows of a data set and seed; ``seeds`` and ``limit`` are defaults
    of the command line; ``summary`` gives sentences for the screen and the head of the file.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--limit", type=int, default=limit, help="training images a class")
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/{name}.csv"))
    options = parser.parse_args()
    told = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.date.today().isoformat(),
    }
    rows: Rows = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FINETUNE_CACHE"] = f"{scratch}/cache"
        for data in options.data:
            for seed in range(options.seeds):
                for row in measured(data, seed, options.limit, scratch):
                    rows.append(row | told)
                    print(rows[-1], flush=True)
    said = summary(rows)
    for line in said:
        print(line)
    with options.out.open("w", newline="") as file:
        words = " ".join("--data DIR" for _ in options.data)
        command = f"python -m benchmarks.{name} {words} --seeds {options.seeds} --limit {options.limit}"
        file.write(f"# {'; '.join([command, *said])}\n")
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
