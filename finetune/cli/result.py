"""How test figures are shown: the accuracy with its interval, then the classes, worst first when many."""

from __future__ import annotations

import math
from typing import Any

from rich.text import Text

from finetune.cli import screen

_MANY = 12  # classes that fit on a screen beside everything else


def show_scores(scores: dict[str, Any], title: str) -> None:
    """Accuracy, interval and the per-class table of a Scores.to_dict()."""
    low, high = scores["interval"]
    right = round(scores["accuracy"] * scores["n"])
    line = Text()
    line.append(f"{title}: ")
    line.append(screen.percent(scores["accuracy"]), style="bold green")
    line.append(
        f"  (95% interval {screen.percent(low)} to {screen.percent(high)}; "
        f"{right:,} of {scores['n']:,} images)"
    )
    screen.show(line)
    extra = [
        f"balanced accuracy {screen.percent(scores['balanced_accuracy'])}",
        f"macro F1 {screen.percent(scores['macro_f1'])}",
        f"log-loss {scores['log_loss']:.3f}",
    ]
    if len(scores["classes"]) > 5:
        extra.insert(2, f"top-5 {screen.percent(scores['top5'])}")
    screen.say(", ".join(extra), style="dim")
    show_classes(scores["classes"])


def show_classes(classes: list[dict[str, Any]]) -> None:
    """A row a class; of many classes the worst."""
    present = [c for c in classes if c["n"]]
    rows = sorted(present, key=lambda c: (_number(c["f1"]), -c["n"]))
    many = len(rows) > _MANY
    shown = rows[: _MANY - 2] if many else [c for c in classes if c["n"]]
    screen.say()
    screen.show(
        screen.table(
            ("class", "images", "precision", "recall", "F1"),
            [
                (
                    c["class"],
                    f"{c['n']:,}",
                    *(screen.percent(_number(c[k])) for k in ("precision", "recall", "f1")),
                )
                for c in shown
            ],
            right=(1, 2, 3, 4),
            shrink=0,
        )
    )
    if many:
        screen.say(f"The {len(shown)} worst of {len(rows)} classes; all are in result.json.", style="dim")


def _number(value: float | None) -> float:
    return math.nan if value is None else value
