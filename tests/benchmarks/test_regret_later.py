"""What a change of the code did to the same trials."""

from __future__ import annotations

from typing import Any

from benchmarks.regret.later import later_section

VERSIONS = {"net@1": ("r", "old")}


def row(seed: int, code: str, accuracy: float, **more: Any) -> dict[str, str]:
    made = {"data": "d", "size": "10", "seed": seed, "backbone": "net@1", "arm": "full", "lr": "1", "recipe": "r",
            "code": code, "status": "ok", "accuracy": accuracy, **more}  # fmt: skip
    return {name: str(value) for name, value in made.items()}


def test_differences_of_trials_that_both_measured() -> None:
    rows = [
        row(0, "old", 0.50), row(0, "new", 0.53), row(1, "old", 0.60), row(1, "new", 0.59),
        row(2, "old", 0.10), row(3, "new", 0.90),  # by one alone
        row(4, "old", 0.10), row(4, "new", 0.0, status="failed"),
        row(0, "older", 0.90), row(0, "new", 0.99, recipe="other"), row(0, "old", 0.01, recipe="other"),
    ]  # fmt: skip
    said = later_section(rows, VERSIONS, "new")
    assert "### The same trials with old and with new" in said
    assert "| net | 10 | full | 2 | +1.00 | 2.00 | -1.0 | +3.0 |" in said
    assert said.count("| net ") == 1


def test_sizes_in_order_and_one_trial_without_an_error() -> None:
    rows = [
        row(0, code, value, size=size)
        for size in ("100", "all", "5")
        for code, value in (("old", 0.5), ("new", 0.5))
    ]
    lines = [line for line in later_section(rows, VERSIONS, "new").splitlines() if line.startswith("| net")]
    assert [line.split(" | ")[1] for line in lines] == ["5", "100", "all"]
    assert lines[0] == "| net | 5 | full | 1 | +0.00 | - | +0.0 | +0.0 |"


def test_nothing_to_compare_is_said() -> None:
    assert "No trial was measured with both." in later_section([row(0, "old", 0.5)], VERSIONS, "new")
