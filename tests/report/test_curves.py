"""The training curves: each phase has lines of its own."""

from __future__ import annotations

import io
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from finetune.report import curves as module
from finetune.report.curves import curves, stretches


def drawn(rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Figure:
    """The figure, laid out as it is when it is drawn."""
    kept: list[Figure] = []
    whole = module.as_png
    monkeypatch.setattr(module, "as_png", lambda figure: (kept.append(figure), whole(figure))[1])
    assert Image.open(io.BytesIO(curves(rows))).width > 500
    return kept[0]


def phase(name: str, steps: range, **figures: Any) -> list[dict[str, Any]]:
    return [
        {"kind": "step", "phase": name, "step": s, "loss": 1 / s, "accuracy": 0.5, **figures} for s in steps
    ]


def test_no_line_leads_from_one_phase_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*phase("head", range(1, 4)), *phase("body", range(10, 30, 10), val_loss=0.4, val_accuracy=None)]
    assert [(s.name, s.begin, s.end) for s in stretches(rows)] == [("head", 0, 3), ("body", 3, 23)]
    figure = drawn(rows, monkeypatch)
    loss = figure.axes[0]
    lines = [
        list(line.get_xdata()) for line in loss.lines if len(line.get_xdata()) and line.get_linestyle() != ":"
    ]
    assert lines == [[1, 2, 3], [13, 23], [13, 23]]
    assert [line.get_xdata()[0] for line in loss.lines if line.get_linestyle() == ":"] == [3]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]


def test_phases_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above them; where a phase is too short for its name by numbers, which are explained."""
    even = drawn([*phase("body", range(1, 30)), *phase("body, refit", range(1, 30))], monkeypatch)
    assert [text.get_text() for text in even.axes[0].texts] == ["body", "body, refit"]
    uneven = drawn([*phase("head first", range(1, 3)), *phase("body", range(1, 90))], monkeypatch)
    assert [text.get_text() for text in uneven.axes[0].texts] == ["1", "2"]
    assert uneven.get_supxlabel() == "phases: 1 head first, 2 body"
    assert drawn(phase("alone", range(1, 9)), monkeypatch).axes[0].texts[:] == []


def test_a_phase_of_few_epochs_shows_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """It wrote hardly a step row: its first step and its epochs are its line."""
    long = phase("body", range(10, 100, 10))
    short = [
        {"kind": "first", "phase": "refit", "step": 1, "loss": 2.0, "accuracy": 0.1},
        {"kind": "epoch", "phase": "refit", "step": 4, "loss": 1.0, "accuracy": 0.6},
    ]
    loss = drawn([*long, *short], monkeypatch).axes[0]
    assert [list(line.get_xdata()) for line in loss.lines[:2]] == [list(range(10, 100, 10)), [91, 94]]
    alone = drawn([*long, short[1]], monkeypatch).axes[0]
    assert alone.lines[1].get_marker() == "o"  # a point without a mark is not seen


def test_steps_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn(phase("p", range(1, 4)), monkeypatch).axes[0]
    assert all(float(place).is_integer() for place in axes.get_xticks())


def test_curves_without_any_row() -> None:
    assert curves([]).startswith(b"\x89PNG")


def test_epoch_rows_do_not_make_the_training_curve_jump() -> None:
    steps = phase("p", range(1, 5))
    epoch = {"kind": "epoch", "phase": "p", "step": 2, "loss": 9.0, "accuracy": 0.1}
    assert curves([*steps[:2], epoch, *steps[2:]]) == curves(steps)
