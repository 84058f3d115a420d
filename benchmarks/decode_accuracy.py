"""Test accuracy of a linear head when photos are decoded at a reduced scale, beside decoding in full.

    python -m benchmarks.decode_accuracy --data DIR [--data DIR] [--out benchmarks/decode_accuracy.csv]

The linear strategy on the embedded backbone, the same split and seeds each time. ``margin`` is how many times the
pixels that evaluation scales to a JPEG keeps on its short side, at least; 2.5 is what data.decode=fast does. The sets
at hand have small images: the network therefore looks at 48 pixels, and lower margins, which nobody is given, show what
reducing more images and further costs.
``reduced``: the share of the test images that were decoded at a reduced scale.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

MARGINS = ("exact", 2.5, 2.0, 1.0)


def measured(data: Path, margin: str | float, seed: int, limit: int, scratch: str) -> dict[str, Any]:
    """One run; its accuracy and its 95% interval."""
    from finetune.api import run
    from finetune.data import reading
    from finetune.data.load import load_data
    from finetune.recipe import Recipe

    reading.MARGIN = margin if isinstance(margin, float) else 2.5
    tree = {
        "strategy": "linear", "seed": seed, "out": f"{scratch}/{data.name}-{margin}-{seed}", "threads": 1,
        "data": {"path": str(data), "limit_per_class": limit, "image_size": 48,
                 "decode": "exact" if margin == "exact" else "fast"},
    }  # fmt: skip
    done = run(tree)
    recipe = Recipe.from_mapping(tree)
    test = load_data(recipe.data, seed).test
    need = reading.needed_side(done.backbone.preprocessing)
    reduced = sum(test.key(i, need) != test.fingerprint(i) for i in range(len(test)))
    scores = done.result["test"]
    return {"data": data.name, "margin": margin, "seed": seed, "test_images": len(test),
            "reduced": round(reduced / len(test), 3), "accuracy": round(scores["accuracy"], 4)}  # fmt: skip


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, default=100, help="training images a class")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/decode_accuracy.csv"))
    options = parser.parse_args()
    told = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.date.today().isoformat(),
    }
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FINETUNE_CACHE"] = f"{scratch}/cache"
        for data in options.data:
            for seed in range(options.seeds):
                for margin in MARGINS:
                    rows.append(measured(data, margin, seed, options.limit, scratch) | told)
                    print(rows[-1], flush=True)
    with options.out.open("w", newline="") as file:
        words = " ".join("--data DIR" for _ in options.data)
        file.write(
            f"# python -m benchmarks.decode_accuracy {words} --seeds {options.seeds} --limit {options.limit}\n"
        )
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
