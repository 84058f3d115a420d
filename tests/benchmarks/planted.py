"""Rows whose regrets are known, because they were made up."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.regret.ledger import COLUMNS, KEY, Key, Row, key_of
from benchmarks.regret.results import Outcome, Results, Trial, collect
from finetune.strategy.decision import decide
from finetune.strategy.measure import Evidence, measure

HERE = {"backbone": "net@1", "recipe": "r", "code": "0"}
NEAR, FAR = (0.0, 0.4, 0.8, 1.6, 2.6), (2.0, 4.0, 6.0, 3.0, 1.0)


def row(data: str, size: str, seed: int, arm: str, accuracy: float | None, lr: str = "-", **more: Any) -> Row:
    """A row as the CSV gives it; None is a failed one."""
    given: dict[str, Any] = {
        **HERE, "data": data, "size": size, "seed": seed, "arm": arm, "lr": lr, "accuracy": accuracy,
        "status": "failed" if accuracy is None else "ok", "val_accuracy": accuracy, "test_n": 100, "val_n": 20,
        "train_n": 100, "classes": 4, "seconds": 1.0, "commit": "c", "machine": "m", "image_size": 32, **more,
    }  # fmt: skip
    return {name: "" if given.get(name) is None else str(given[name]) for name in COLUMNS}


def rows_of(table: Mapping[str, Mapping[str, Sequence[float]]], size: str = "25") -> list[Row]:
    """data set -> arm -> accuracy of each seed."""
    return [
        row(data, size, seed, arm, accuracy, "-" if arm in ("linear", "multistage") else "1")
        for data, arms in table.items()
        for arm, values in arms.items()
        for seed, accuracy in enumerate(values)
    ]


def trial(
    data: str, seed: int, arms: Mapping[str, float], *, size: str = "25", train_n: int = 100, family: str = "",
    validation: Mapping[str, float] | None = None, seconds: Mapping[str, float] | None = None, **more: Any,
) -> Trial:  # fmt: skip
    """A trial by hand."""
    val, cost = validation or arms, seconds or {}
    return Trial(
        data=data, size=size, seed=str(seed), backbone="net@1", family=family or data, classes=4, train_n=train_n,
        test_n=100, arms={a: Outcome(v, val[a], 1.0, cost.get(a, 1.0)) for a, v in arms.items()}, **more,
    )  # fmt: skip


@functools.cache
def evidence(strengths: tuple[float, ...], per_class: int, classes: int = 4, seed: int = 0) -> Evidence:
    """Measured on features made to order: how far apart the classes are in each stage, in noise deviations."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), 40)
    taps = []
    for strength in strengths:
        centres = rng.normal(size=(classes, 12)) * strength / math.sqrt(12)
        taps.append((rng.normal(size=(len(labels), 12)) + centres[labels]).astype(np.float32))
    return measure(taps, labels, classes, n=per_class * classes, counts=[per_class] * classes)


def record(found: Evidence, **more: Any) -> dict[str, Any]:
    """As the JSONL keeps it, through JSON."""
    text = json.dumps({"decision": decide(found).to_dict(), **more}, default=float)
    tree: dict[str, Any] = json.loads(text)
    return tree


def records_of(rows: Sequence[Row], found: Mapping[str, Evidence]) -> dict[Key, dict[str, Any]]:
    """The evidence of auto's rows, by data set."""
    return {
        key_of(r): {**{name: r[name] for name in KEY}, **record(found[r["data"]], logme=1.0)}
        for r in rows
        if r["arm"] == "auto"
    }


# --- five data sets, every other one far from the source -----------------------------------------------------

DATA = ("a", "b", "c", "d", "e")
FOUND = {
    data: evidence(FAR if i % 2 else NEAR, 500, seed=s)
    for i, (data, s) in enumerate(zip(DATA, (1, 0, 4, 1, 5)))
}


def table(
    seeds: int = 2, rates: Sequence[str] = ("1",), data: Sequence[str] = DATA, far_arm: str = "full"
) -> list[Row]:
    """``far_arm`` is right for every other data set by four points, partial for the rest; the head is far below."""
    rows = []
    for name in data:
        far = DATA.index(name) % 2
        for seed in range(seeds):
            good = {"linear": 0.70, "partial": 0.86 if far else 0.90, far_arm: 0.90 if far else 0.86}
            for arm, accuracy in good.items():
                for lr in ("-",) if arm == "linear" else rates:
                    rows.append(
                        row(name, "100", seed, arm, accuracy, lr, val_accuracy=accuracy - abs(len(lr) - 1))
                    )
            rows.append(row(name, "100", seed, "auto", 0.89, chosen=far_arm, decide_seconds=3.0))
    return rows


def results(rows: list[Row]) -> tuple[Results, Results]:
    """At each arm's own learning rate, and with rates chosen on validation."""
    records = records_of(rows, FOUND)
    return tuple(collect(rows, records, {}, own_rates=own) for own in (True, False))  # type: ignore[return-value]


def line(text: str, start: str) -> list[str]:
    """Cells of the first table row that begins with ``start``."""
    found = next(part for part in text.splitlines() if part.startswith(f"| {start}"))
    return [cell.strip() for cell in found.strip("|").split("|")]
