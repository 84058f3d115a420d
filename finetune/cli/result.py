"""How test figures are shown: the main one with its interval, then the classes, worst first when many."""

from __future__ import annotations

import math
from typing import Any

from rich.text import Text

from finetune.cli import screen

_MANY = 12  # classes that fit on a screen beside everything else


def show_scores(scores: dict[str, Any], title: str) -> None:
    """The main figure with its interval, and the per-class table of what ``to_dict`` gave.

    ``title`` is the figure's with ``{}`` for its name: ``Test {}``.
    """
    show = {"multi-label": _show_labels, "regression": _show_number}.get(
        scores.get("task", ""), _show_classes
    )
    show(scores, title)


def _show_classes(scores: dict[str, Any], title: str) -> None:
    low, high = scores["interval"]
    right = round(scores["accuracy"] * scores["n"])
    line = Text()
    line.append(_titled(title, "accuracy"))
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


def _show_labels(scores: dict[str, Any], title: str) -> None:
    low, high = (_number(end) for end in scores["interval"])
    _headline("mean average precision", title, screen.percent(_number(scores["mean_ap"])),
              (screen.percent(low), screen.percent(high)), scores["n"])  # fmt: skip
    screen.say(
        f"all labels right for {screen.percent(scores['subset_accuracy'])} of the images, at 50%: micro F1 "
        f"{screen.percent(_number(scores['micro_f1']))}, macro F1 {screen.percent(_number(scores['macro_f1']))}; "
        f"log-loss a label {scores['log_loss']:.3f}",
        style="dim",
    )
    rows = sorted((c for c in scores["classes"] if c["n"]), key=lambda c: _number(c["average_precision"]))
    shown = rows[: _MANY - 2] if len(rows) > _MANY else rows
    cells = [
        (c["class"], f"{c['n']:,}", *(screen.percent(_number(c[k])) for k in _LABEL_KEYS)) for c in shown
    ]
    screen.say()
    screen.show(
        screen.table(("label", "images", "avg precision", "precision", "recall", "F1"), cells,
                     right=(1, 2, 3, 4, 5), shrink=0)
    )  # fmt: skip
    if len(shown) < len(rows):
        screen.say(f"The {len(shown)} worst of {len(rows)} labels; all are in result.json.", style="dim")


_LABEL_KEYS = ("average_precision", "precision", "recall", "f1")


def _show_number(scores: dict[str, Any], title: str) -> None:
    shown = {
        key: (f"{_number(scores[key]):.4g}", tuple(f"{_number(end):.4g}" for end in scores[interval]))
        for key, interval in (("mae", "interval"), ("rmse", "rmse_interval"), ("r2", "r2_interval"))
    }
    _headline("mean absolute error", title, shown["mae"][0], shown["mae"][1], scores["n"])
    rest = [
        f"{name} {shown[key][0]} ({' to '.join(shown[key][1])})"
        for key, name in (("rmse", "RMSE"), ("r2", "R2"))
    ]
    screen.say(", ".join(rest), style="dim")


def _headline(what: str, title: str, value: str, interval: tuple[str, ...], n: int) -> None:
    line = Text()
    line.append(_titled(title, what))
    line.append(value, style="bold green")
    line.append(f"  (95% interval {interval[0]} to {interval[1]}; {n:,} images)")
    screen.show(line)


def _titled(title: str, what: str) -> str:
    named = title.replace("{}", what, 1)
    return f"{named[:1].upper()}{named[1:]}: "


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
