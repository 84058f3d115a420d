"""What is printed is what the rows say; where there are no rows, no figure is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from planted import DATA, FOUND, line, records_of, results, row, table

from benchmarks.regret import figures, report
from benchmarks.regret.__main__ import main
from benchmarks.regret.ledger import Ledger
from benchmarks.regret.report import BEGIN, END, render, write_report
from finetune.errors import DataError, RunError


def test_the_planted_regrets_are_printed() -> None:
    made, pictures = render(*results(table()))
    # 3 of 5 data sets lose 4 points; the seeds agree, so both oracles are one
    assert line(made, "always full")[1:7] == ["2.40", "2.40", "4.0", "4.0", "40%", "-50%"]
    assert line(made, "always partial")[1:6] == ["1.60", "1.60", "4.0", "4.0", "60%"]
    assert line(made, "best single (partial)")[1] == "1.60"
    assert line(made, "auto, as run")[1:7] == ["1.00", "1.00", "1.0", "1.0", "100%", "38%"]
    assert line(made, "always linear")[1] == "20.00"
    assert line(made, "random")[1] == "8.00"
    validated = line(made, "validate every arm")
    assert (validated[1], validated[7]) == ("0.00", "100%")
    assert line(made, "auto, its choice")[1] == "0.00"
    assert line(made, "never more than 1 point below linear")[1] == "-20.0, met"
    assert line(made, "mean regret <= 0.7")[1:3] == ["0.00 .. 0.00, met", "1.00 .. 1.00, **missed**"]
    assert "rest on **5 data sets** of 5 families, sizes 100" in made
    assert "**2 seeds** a unit, 1 backbone: 10 trials, each with the arms linear, partial, full." in made
    assert "Not measured: multistage, norm-bias" in made
    assert "took 3 s at most" in made
    assert "Not measured yet: every trial has one learning rate." in made
    assert len(pictures) == 3
    for name in re.findall(r"\(regret/(.*\.png)\)", made):
        assert name in pictures


def test_a_race_has_targets_of_its_own() -> None:
    rows = table()
    for data in DATA:
        for seed in (0, 1):
            rows.append(row(data, "100", seed, "auto, race 10m", 0.898, seconds=0.9))
    made, _ = render(*results(rows))
    assert "each with the arms linear, partial, full." in made  # it is no arm
    assert line(made, "auto, race 10m")[1:8] == ["0.20", "0.20", "0.2", "0.2", "100%", "88%", "30%"]
    at = made.index("| target | auto, race 10m |")
    assert line(made[at:], "mean regret <= 0.3")[1:] == ["0.20 .. 0.20, met"]
    assert line(made[at:], "cost <= 20%")[1:] == ["30%, **missed**"]
    assert "race" not in made[made.index("| target | auto, its choice") : at].splitlines()[0]


def test_gap_and_intervals_are_those_of_the_summary() -> None:
    made, _ = render(*results(table()))
    against = line(made, "always linear |")
    cells = [part for part in made.splitlines() if part.startswith("| always linear | +")]
    assert against[0] == "always linear"
    same = "+20.00 to +20.00"
    assert cells == [f"| always linear | +20.00 | {same} | {same} | 5 units, 10 trials |"]
    assert "t with 4 degrees of freedom" in made


def test_tuned_rates_get_a_section_of_their_own() -> None:
    made, pictures = render(*results(table(rates=("1", "1/3"))))
    assert made.count("\n### ") == 2
    assert len(pictures) == 6
    assert "learning rates chosen on validation" in made


def test_one_seed_is_called_what_it_is() -> None:
    made, _ = render(*results(table(seeds=1)))
    assert "**One seed only: the oracle was chosen on the very test it is scored on" in made
    assert "**1 seed** a unit" in made


def test_few_families_get_no_intervals() -> None:
    made, _ = render(*results(table(data=("a", "b"))))
    assert "No intervals: the trials are of fewer than 4 families." in made
    assert "rest on **2 data sets** of 2 families" in made
    assert "the thresholds would be" not in made
    assert "no threshold moves" not in made
    assert "**Fewer than 4 families: no intervals are given, and little follows.**" in made


def test_without_evidence_nothing_is_made_up() -> None:
    rows = [r for r in table() if r["arm"] != "auto"]
    made, pictures = render(*results(rows))
    assert "Auto was not measured in these trials." in made
    assert "No ablations: no stored decision chose among the arms of these trials." in made
    assert not [name for name in pictures if "plane" in name]
    assert "auto, " not in made


def test_no_rows_no_figures() -> None:
    made, pictures = render(*results([]))
    assert made == "No complete rows yet, so there is nothing to report.\n"
    assert pictures == {}
    lacking = render(*results([row("a", "5", 0, "linear", 0.5), row("b", "5", 0, "partial", 0.5, "1")]))[0]
    assert "2 groups of rows lack an arm" in lacking
    with pytest.raises(DataError, match="The bars must be of at least one rule"):
        figures.bars({})
    with pytest.raises(DataError, match="The panels must be of at least one data set"):
        figures.by_size([])
    with pytest.raises(DataError, match="The plane must be of trials with a measured similarity"):
        figures.plane([], {})


def test_commits_side_by_side_are_told() -> None:
    rows = [*table(), row("a", "5", 0, "linear", 0.5, commit="other")]
    assert "**Rows of 2 commits stand side by side.**" in render(*results(rows))[0]


def test_the_document_keeps_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "regret.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    found = results(table())
    write_report(*found, document)
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\nThese tables rest on")
    assert text.endswith(f"{END}\nafter\n")
    assert "\nold\n" not in text
    pictures = sorted((tmp_path / "regret").iterdir())
    assert [p.name for p in pictures] == sorted(re.findall(r"\(regret/(.*\.png)\)", text))
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)
    monkeypatch.setattr(report, "render", lambda own, tuned, folder, whole, keys: ("other", {}))
    write_report(*found, document)
    assert document.read_text() == f"before\n{BEGIN}\n\nother\n\n{END}\nafter\n"
    document.write_text("no marks")
    with pytest.raises(RunError, match="must be a file with one <!-- results: begin -->"):
        write_report(*found, document)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(tmp_path / "r.csv")
    ledger.open()
    rows = table()
    records = records_of(rows, FOUND)
    for one in rows:
        key = tuple(one[k] for k in ("data", "size", "seed", "backbone", "arm", "lr", "recipe", "code"))
        ledger.append(one, records.get(key))
    assert main(["report", str(ledger.path), "--print"]) == 0
    assert line(capsys.readouterr().out, "always partial")[1] == "1.60"
    assert main(["report", str(tmp_path / "none.csv")]) == 2
    assert "A ledger must be a CSV" in capsys.readouterr().err
    assert main(["run", "--root", str(tmp_path / "none"), "--out", str(tmp_path / "x.csv")]) == 2
    assert "--root must be a folder" in capsys.readouterr().err


def test_decisions_for_arms_that_were_not_measured_are_no_ablations() -> None:
    made, _ = render(*results(table(far_arm="lp-ft")))
    assert "nan" not in made
