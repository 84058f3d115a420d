"""Test accuracy of full finetuning: images augmented one by one in the loader, beside batch by batch on the device.

    python -m benchmarks.augment_accuracy --data DIR [--data DIR] [--seeds 3] [--limit 60]

The embedded backbone at 48 pixels, the same split, seed and schedule for both places. The draws differ, so single runs
do too: only the mean difference, with its standard error over seeds and data sets, says something about a place.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy_table import tabulate

POLICIES = ("standard", "trivial")
PLACES = ("loader", "device")


def measured(data: Path, policy: str, place: str, seed: int, limit: int, scratch: str) -> dict[str, Any]:
    """One run; its accuracy on the test images."""
    from finetune.api import run

    tree = {
        "strategy": "full", "seed": seed, "out": f"{scratch}/{data.name}-{policy}-{place}-{seed}", "threads": 1,
        "data": {"path": str(data), "limit_per_class": limit, "image_size": 48},
        "train": {"augment": policy, "augment_on": place, "epochs_factor": 0.15, "precision": "fp32",
                  "channels_last": True, "preflight": False, "safety_net": False, "refit": False},
    }  # fmt: skip
    scores = run(tree).result["test"]
    return {"data": data.name, "policy": policy, "place": place, "seed": seed, "test_images": scores["n"],
            "accuracy": round(scores["accuracy"], 4), "log_loss": round(scores["log_loss"], 4)}  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """A line a policy: device minus loader in points, with the standard error over runs."""
    lines = []
    for policy in POLICIES:
        found: dict[tuple[str, int], dict[str, float]] = {}
        for row in rows:
            if row["policy"] == policy:
                found.setdefault((row["data"], row["seed"]), {})[row["place"]] = row["accuracy"]
        gaps = [100 * (pair["device"] - pair["loader"]) for pair in found.values()]
        error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
        lines.append(
            f"{policy}: device - loader {statistics.mean(gaps):+.2f} points, standard error {error:.2f}"
        )
    return lines


def cells(data: Path, seed: int, limit: int, scratch: str) -> Iterator[dict[str, Any]]:
    """The rows of a data set and seed."""
    for policy in POLICIES:
        for place in PLACES:
            yield measured(data, policy, place, seed, limit, scratch)


if __name__ == "__main__":
    tabulate("augment_accuracy", __doc__, cells, seeds=3, limit=60, summary=summary)
