"""Does the textbook's table hold? Every strategy on data sets of all four cells, with confidence.

    python benchmarks/cells.py --root DIR [--only NAME ...] [--seeds 3] [--out benchmarks/cells.csv]

DIR holds the unpacked data sets. Rows are appended as they are measured and never measured twice, so the command can
be stopped and started again; `--table` prints the Markdown table of the README from the CSV. Training images are at
most ``--limit`` of a class and epochs at most ``--epochs``, to fit a two-core machine: both are columns of the CSV,
the same for every strategy of a data set, so rows of one data set compare with each other. ``--set KEY=VALUE ...``
says more of that kind and is a column too. An `auto` whose plan, but for its name, is the plan of a strategy already
measured with the same seed takes over that row's figures: training it again would give the same bits.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import hashlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.strategy.plan import Plan

STRATEGIES = ("linear", "multistage", "partial", "full", "scratch", "auto")


@dataclass(frozen=True)
class Case:
    """One row of the table: a data set at one size."""

    name: str
    folder: str
    cell: str
    """What a person would say of it: similar or different, little or much."""
    per_class: int | None = None
    group_by: str | None = None
    """Keeps relatives, as the frames of one sign, on one side of the split."""


CASES = (
    Case("tinyimagenet_target25, 10 a class", "tinyimagenet_target25", "similar, little", 10),
    Case("hymenoptera", "hymenoptera", "similar, little"),
    Case("brain_mri", "brain_mri", "different, little"),
    Case("edges", "edges", "different, little"),
    Case("gtsrb, by track", "gtsrb", "different, much", group_by="(.*)_[0-9]+[.]"),
    Case("flowers_thumb", "flowers_thumb", "similar, much"),
    Case("mnist_png", "mnist_png", "different, much"),
    Case("tinyimagenet_target25", "tinyimagenet_target25", "similar, much"),
)
COLUMNS = ("case", "cell", "backbone", "strategy", "chosen", "seed", "accuracy", "low", "high", "test_n", "train_n",
           "seconds", "trained_parameters", "image_size", "limit", "epochs", "settings", "plan", "version",
           "machine", "date")  # fmt: skip


def key(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[k] for k in ("case", "backbone", "strategy", "seed", "limit", "epochs", "settings"))


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def digest(plan: Plan) -> str:
    """Of all that training follows from: two strategies with one digest and one seed are one training."""
    kept = plan.model_dump(mode="json", exclude={"strategy", "why"})
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def measure(
    case: Case, strategy: str, seed: int, options: argparse.Namespace, measured: list[dict[str, str]]
) -> dict[str, object]:
    import finetune
    from finetune.strategy.plan import Plan

    limit = min(filter(None, (case.per_class, options.limit)), default=None)
    scratch = tempfile.mkdtemp()
    try:
        recipe = {
            "data": {
                "path": str(options.root / case.folder),
                "limit_per_class": limit,
                "image_size": options.image_size,
                "group_by": case.group_by,
            },
            "backbone": options.backbone, "strategy": strategy, "seed": seed, "out": f"{scratch}/run",
            "train": {"epochs": options.epochs},
        }  # fmt: skip
        if strategy == "auto":
            plan, _ = finetune.advise(recipe, *options.set)
            same = {"case": case.name, "backbone": Path(options.backbone).stem, "seed": str(seed), "plan": digest(plan),
                    "settings": " ".join(options.set), "version": finetune.__version__}  # fmt: skip
            twin = next((r for r in measured if all(r[k] == v for k, v in same.items())), None)
            if twin is not None:
                return {**twin, "strategy": "auto", "chosen": plan.strategy,
                        "date": datetime.date.today().isoformat()}  # fmt: skip
        run = finetune.run(recipe, *options.set)
        result = run.result
        plan = Plan.from_yaml((run.path / "plan.yaml").read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(scratch)
    test = result["test"]
    return {"case": case.name, "cell": case.cell, "backbone": Path(options.backbone).stem, "strategy": strategy,
            "chosen": result.get("chosen", strategy), "seed": seed, "accuracy": round(test["accuracy"], 4),
            "low": round(test["interval"][0], 4), "high": round(test["interval"][1], 4), "test_n": test["n"],
            "train_n": result["train_n"], "seconds": round(result["seconds"], 1),
            "trained_parameters": result["trained_parameters"], "image_size": result["image_size"],
            "limit": limit or "", "epochs": options.epochs or "", "settings": " ".join(options.set),
            "plan": digest(plan), "version": finetune.__version__,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
            "date": datetime.date.today().isoformat()}  # fmt: skip


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: mean accuracy over seeds [min..max], the best of each row in bold; a table for each backbone and set
    of recipe keys."""
    lines = []
    for backbone, settings in sorted({(r["backbone"], r["settings"]) for r in rows}):
        mine = [r for r in rows if (r["backbone"], r["settings"]) == (backbone, settings)]
        shown = [s for s in (*STRATEGIES, *sorted({r["strategy"] for r in mine} - set(STRATEGIES)))
                 if any(r["strategy"] == s for r in mine)]  # fmt: skip
        lines += [
            f"**{backbone}**" + (f", `{settings}`" if settings else ""),
            "",
            "| data set | cell | train / test images | " + " | ".join(shown) + " |",
            "|---" * (3 + len(shown)) + "|",
        ]
        groups = [
            (case, limit)
            for case in CASES
            for limit in sorted(
                {r["limit"] for r in mine if r["case"] == case.name}, key=lambda x: int(x or 0)
            )
        ]
        for case, limit in groups:
            here = [r for r in mine if r["case"] == case.name and r["limit"] == limit]
            found = {s: [100 * float(r["accuracy"]) for r in here if r["strategy"] == s] for s in shown}
            best = max(statistics.mean(v) for v in found.values() if v)
            cells = []
            for strategy, values in found.items():
                if not values:
                    cells.append("")
                    continue
                text = f"{statistics.mean(values):.1f}"
                text = f"**{text}**" if statistics.mean(values) == best else text
                spread = f" [{min(values):.1f}..{max(values):.1f}]" if len(values) > 1 else ""
                chosen = (
                    sorted({r["chosen"] for r in here if r["strategy"] == "auto"})
                    if strategy == "auto"
                    else []
                )
                cells.append(text + spread + (f" ({', '.join(chosen)})" if chosen else ""))
            sizes = f"{here[0]['train_n']} / {here[0]['test_n']}"
            name = case.name if case.per_class or not limit else f"{case.name}, at most {limit} a class"
            lines.append(f"| {name} | {case.cell} | {sizes} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/cells.csv"))
    parser.add_argument("--only", nargs="*", help="names of data sets (default: all)")
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES), help="any registered ones")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only-seeds", type=int, nargs="*", help="these instead of the first --seeds")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--limit", type=int, help="training images of a class, at most")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="any recipe keys")
    parser.add_argument("--table", action="store_true", help="print the table of the CSV and stop")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.out)))
        return
    if options.root is None:
        parser.error("--root DIR: the folder with the unpacked data sets")
    new = not options.out.exists() or not options.out.stat().st_size
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
            file.flush()
        for seed in options.only_seeds or range(options.seeds):
            for case in CASES:
                if options.only and case.name not in options.only:
                    continue
                for strategy in options.strategies:
                    limit = min(filter(None, (case.per_class, options.limit)), default=None)
                    wanted = (case.name, Path(options.backbone).stem, strategy, str(seed),
                              str(limit or ""), str(options.epochs or ""), " ".join(options.set))  # fmt: skip
                    measured = read(options.out)
                    if wanted in {key(r) for r in measured}:
                        continue
                    row = measure(case, strategy, seed, options, measured)
                    writer.writerow(row)
                    file.flush()
                    print(
                        f"{case.name}, {strategy}, seed {seed}: {row['accuracy']} in {row['seconds']} s",
                        flush=True,
                    )


if __name__ == "__main__":
    sys.exit(main())
