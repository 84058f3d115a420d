"""What averages are worth: EMA, SWA, snapshots, ensembles, soups and bags against the single network.

    python benchmarks/averages.py --root DIR [--seeds 2] [--epochs 8] [--out benchmarks/averages.csv]

DIR holds the unpacked data sets. For each data set and seed: one split, three ordinary runs that differ in
nothing but their seed (``single`` is the first), and everything else trained or put together on the same split,
with as many epochs as one of them. No augmentation, so that the frozen stages run once and a run takes seconds;
no safety net and no refit, so that each row is what its name says. ``linear, bag`` and its own single run are
linear heads on the frozen network. Rows are appended and never measured twice; `--table` prints the Markdown
table of the CSV.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CASES = ("hymenoptera", "brain_mri")
COLUMNS = ("case", "arm", "seed", "accuracy", "log_loss", "test_n", "train_n", "cpu_seconds", "networks", "strategy",
           "image_size", "epochs", "version", "machine", "date")  # fmt: skip
MEMBERS = 3
STAGES = 1
BAGS = 10
PLAIN = {"refit": False, "safety_net": False, "keep": "last", "precision": "fp32", "channels_last": False,
         "avoid": [], "augment": "none"}  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def arms(
    case: str, seed: int, options: argparse.Namespace, scratch: Path
) -> Iterator[tuple[str, Any, float, int]]:
    """(name, finished run, CPU seconds, networks that answer) of every arm, in order of cost."""
    from finetune.api import run
    from finetune.ensemble.bag import bag
    from finetune.ensemble.build import ensemble, soup

    def recipe(name: str, strategy: str, member: int = 0, **train: Any) -> dict[str, Any]:
        data = {"path": str(options.root / case), "image_size": options.image_size, "split_seed": seed}
        keys = {**PLAIN, "epochs": options.epochs, **train}
        if strategy == "partial":
            keys["train_stages"] = STAGES
        return {"data": data, "strategy": strategy, "seed": MEMBERS * seed + member, "train": keys,
                "out": str(scratch / name)}  # fmt: skip

    def timed(make: Callable[[], Any]) -> tuple[Any, float]:
        started = time.process_time()
        return make(), time.process_time() - started

    tune = options.strategy
    runs, spent = [], 0.0
    for member in range(MEMBERS):
        keys = recipe(f"run {member}", tune, member, ema=None)
        done, seconds = timed(lambda keys=keys: run(keys, figures=False))  # type: ignore[misc]
        runs.append(done.path)
        spent += seconds
        if member == 0:
            yield "single", done, seconds, 1
    several: dict[str, Callable[[], Any]] = {
        "ensemble": lambda: ensemble(runs, out=scratch / "ensemble"),
        "ensemble --greedy": lambda: ensemble(runs, greedy=True, out=scratch / "greedy"),
        "soup uniform": lambda: soup(runs, "uniform", out=scratch / "soup"),
        "soup greedy": lambda: soup(runs, "greedy", out=scratch / "greedy soup"),
    }
    for name, make in several.items():
        done, seconds = timed(make)
        yield name, done, spent + seconds, max(1, len(done.folder.members()))
    single: dict[str, dict[str, Any]] = {
        "ema": {"ema": 0.95},
        "swa": {"swa": 0.25},
        "snapshots": {"snapshots": 4},
    }
    for name, keys in single.items():
        asked = recipe(name, tune, **keys)
        done, seconds = timed(lambda asked=asked: run(asked, figures=False))  # type: ignore[misc]
        yield name, done, seconds, max(1, len(done.folder.members()))
    linear = recipe("bag", "linear")
    done, seconds = timed(lambda: run(recipe("linear", "linear"), figures=False))
    yield "linear, single", done, seconds, 1
    done, seconds = timed(lambda: bag(linear, BAGS))
    yield "linear, bag", done, seconds, BAGS


def measure(case: str, seed: int, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    import finetune

    scratch = Path(tempfile.mkdtemp())
    os.environ["FINETUNE_CACHE"] = str(scratch / "cache")
    try:
        for name, done, seconds, networks in arms(case, seed, options, scratch):
            test = done.result["test"]
            yield {
                "case": case, "arm": name, "seed": seed, "accuracy": round(test["accuracy"], 4),
                "log_loss": round(test["log_loss"], 4), "test_n": test["n"], "train_n": done.result["train_n"],
                "cpu_seconds": round(seconds, 1), "networks": networks,
                "strategy": "linear" if name.startswith("linear") else options.strategy,
                "image_size": options.image_size, "epochs": options.epochs, "version": finetune.__version__,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
                "date": time.strftime("%Y-%m-%d"),
            }  # fmt: skip
    finally:
        shutil.rmtree(scratch)


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: mean over seeds of accuracy in per cent and log-loss; CPU seconds over those of the single run."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    lines = ["| | " + " | ".join(cases) + " | cost |", "|---" * (len(cases) + 2) + "|"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        cells = []
        for case in cases:
            here = [row for row in mine if row["case"] == case]
            right = statistics.mean(100 * float(row["accuracy"]) for row in here)
            cells.append(f"{right:.1f} / {statistics.mean(float(row['log_loss']) for row in here):.3f}")
        alone = "linear, single" if arm.startswith("linear") else "single"
        base = sum(float(row["cpu_seconds"]) for row in rows if row["arm"] == alone)
        cost = sum(float(row["cpu_seconds"]) for row in mine) / base
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | {cost:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/averages.csv"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--strategy", default="partial")
    parser.add_argument("--table", action="store_true", help="print the table of the CSV and stop")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.out)))
        return
    if options.root is None:
        parser.error("--root DIR: the folder with the unpacked data sets")
    for seed in range(options.seeds):
        for case in CASES:
            if any(row["case"] == case and row["seed"] == str(seed) for row in read(options.out)):
                continue
            rows = list(measure(case, seed, options))
            new = not options.out.exists()
            with options.out.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if new:
                    writer.writeheader()
                writer.writerows(rows)
            for row in rows:
                print(
                    f"{case}, seed {seed}, {row['arm']}: {row['accuracy']}, {row['cpu_seconds']} s",
                    flush=True,
                )


if __name__ == "__main__":
    sys.exit(main())
