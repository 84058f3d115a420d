"""The table of dial targets."""

from __future__ import annotations

from benchmarks.regret.dial_table import dial_section


def row(
    data: str, arm: str, accuracy: float, *, size: str = "10", seed: int = 0, similarity: str = ""
) -> dict[str, str]:
    return {"data": data, "size": size, "seed": str(seed), "arm": arm, "accuracy": str(accuracy), "status": "ok",
            "similarity": similarity}  # fmt: skip


ROWS = [
    row("d~hue", "linear", 0.5), row("d~hue", "full", 0.6), row("d~hue", "auto", 0.55, similarity="0.6"),
    row("d~hue", "linear", 0.6, seed=1), row("d~hue", "full", 0.6, seed=1),
    row("d~hue", "auto", 0.6, seed=1, similarity="0.8"),
    row("d~edges", "linear", 0.3), row("d~edges", "full", 0.2), row("d~edges", "auto", 0.3, similarity="0.9"),
    row("d~edges", "linear", 0.3, size="5"), row("d~edges", "auto", 0.3, size="5", similarity="0.2"),
    row("d", "linear", 0.9), row("d", "auto", 0.1, similarity="0.99"),  # no dial
    row("d~hue", "full", 0.0) | {"status": "failed"},
]  # fmt: skip


def test_nearest_first_and_regret_below_the_best_mean() -> None:
    lines = [line for line in dial_section(ROWS).splitlines() if line.startswith("| ")][1:]
    assert lines == [
        "| 5 | edges | 1 | 0.20 | 30.0 | linear 30.0 | 30.0 | 0.0 |",
        "| 10 | edges | 1 | 0.90 | 30.0 | linear 30.0 | 30.0 | 0.0 |",
        "| 10 | hue | 2 | 0.70 | 55.0 | full 60.0 | 57.5 | 2.5 |",
    ]


def test_one_arm_for_all_of_them() -> None:
    said = dial_section(ROWS)
    assert (
        "Mean regret in hindsight at 10 a class, each arm always: auto 1.25, linear 2.50, full 5.00." in said
    )
    assert "Targets made from d:" in said


def test_without_dials_it_says_so() -> None:
    assert "Not measured." in dial_section([row("d", "auto", 0.5, similarity="0.5")])
