"""Test accuracy of a linear head when photos are decoded at a reduced scale, beside decoding in full.

    python -m benchmarks.decode_accuracy --data DIR [--data DIR] [--out benchmarks/decode_accuracy.csv]

The linear strategy on the embedded backbone, the same split and seeds each time. ``margin`` is how many times the
pixels that evaluation scales to a JPEG keeps on its short side, at least; 2.5 is what data.decode=fast does. The sets
at hand have small images: the network therefore looks at 48 pixels, and lower margins, which nobody is given, show what
reducing more images and further costs.
``reduced``: the share of the test images that were decoded at a reduced scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy_table import tabulate

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


def cells(data: Path, seed: int, limit: int, scratch: str) -> Iterator[dict[str, Any]]:
    """The rows of a data set and seed."""
    for margin in MARGINS:
        yield measured(data, margin, seed, limit, scratch)


if __name__ == "__main__":
    tabulate("decode_accuracy", __doc__, cells, seeds=2, limit=100)
