"""The coach against the committed curves, each made by really training with a known fault (docs/coach.md)."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from benchmarks.coach.judge import TABLE, Judged, judge, rates, table
from benchmarks.coach.settings import FAULTS, HARMFUL, HARMFUL_IN, LEVELS, PARTS, drawn, settings
from benchmarks.coach.store import FILE, Curve, pack, read, write
from finetune.coach.finding import Facts
from finetune.coach.live import Live

NAMED, ALL_NAMED = 88 / 100, 276 / 300


@pytest.fixture(scope="module")
def curves() -> list[Curve]:
    return read()


@pytest.fixture(scope="module")
def judged(curves: list[Curve]) -> list[Judged]:
    return judge(curves)


def test_the_committed_table_is_what_the_coach_says_today(judged: list[Judged]) -> None:
    assert table(judged) == TABLE.read_text(encoding="utf-8")


def test_the_rates(judged: list[Judged]) -> None:
    """The figures of docs/coach.md: of all parts, and of the last, after what changed since it was first judged."""
    fresh, whole = rates(j for j in judged if j.part == PARTS[-1]), rates(judged)
    assert (fresh["faulty"], fresh["healthy"]) == (10 * len(FAULTS), 48)
    assert (fresh["named"], fresh["false_alarms"]) == (pytest.approx(NAMED), 0)
    assert (whole["faulty"], whole["healthy"]) == (30 * len(FAULTS), 144)
    assert (whole["named"], whole["false_alarms"]) == (pytest.approx(ALL_NAMED), 0)


def test_the_page_shows_the_table_and_the_rates() -> None:
    page = (Path(__file__).parents[2] / "docs" / "coach.md").read_text(encoding="utf-8")
    assert "276 of 300 faults (92%)" in page
    for row in csv.DictReader(io.StringIO(TABLE.read_text(encoding="utf-8"))):
        if row["part"] == PARTS[-1]:
            assert f"| {row['fault']} | {row['curves']} | {row['named']} |" in page


def test_live_warnings_are_right_and_healthy_runs_hear_none(curves: list[Curve]) -> None:
    for curve in curves:
        live = Live(Facts.from_mapping(curve.facts))
        said = [finding.name for row in curve.rows if (finding := live.read(row)) is not None]
        assert len(said) == len(set(said))
        if curve.setting.fault == "healthy":
            assert said == [], curve.setting.name


def test_the_curves_are_those_of_the_settings_and_the_verdict_shares_no_severity(curves: list[Curve]) -> None:
    for curve, first in zip(curves, settings(), strict=True):
        number = int(first.name.rpartition("/")[2])
        assert curve.setting == drawn(first.part, first.fault, number, curve.setting.draw)[0]
        assert curve.setting.draw == 0 or (first.part in HARMFUL_IN and first.fault in HARMFUL)
    assert len({curve.setting.seed for curve in curves}) > 0.9 * len(curves)
    for key in set(LEVELS["tune"]) - {"tiny"}:  # there are not many widths of a network that is too small
        for part in PARTS[:-1]:
            assert not set(LEVELS[part][key]) & set(LEVELS[PARTS[-1]][key]), key
    assert {curve.setting.part for curve in curves} == set(PARTS)
    assert FILE.stat().st_size < 600_000


def test_curves_are_read_as_they_were_packed(curves: list[Curve], tmp_path: Path) -> None:
    some = curves[:3]
    write([pack(c.setting, c.rows, c.facts) for c in some], tmp_path / "c.gz")
    assert read(tmp_path / "c.gz") == some


@pytest.mark.parametrize(
    ("fault", "number"), [("wrong direction", 2), ("lr too high", 3), ("overfitting", 0)]
)
def test_the_script_makes_the_faults_it_says(fault: str, number: int) -> None:
    """Three of the curves trained anew; their last digits depend on the machine, the finding does not."""
    from benchmarks.coach.curves import train

    setting = next(s for s in settings() if s.name == f"tune/{fault}/{number}")
    rows, facts = train(setting)
    assert fault in judge([Curve(setting, facts, rows)])[0].top
