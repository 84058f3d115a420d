"""The coach beside a training that runs: reads the rows as they come and speaks once when it is sure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finetune.coach.curve import Curve
from finetune.coach.diagnose import EARLY, EXPLAINS
from finetune.coach.finding import Facts, Finding

_STEP_ROWS = 100
"""After so many step rows it looks at epochs only: trouble that comes later can wait for the epoch's end."""


class Live:
    """Of one phase."""

    def __init__(self, facts: Facts) -> None:
        self._curve = Curve((), replace(facts, finished=False))
        self._known: set[str] = set()

    def read(self, row: Mapping[str, Any]) -> Finding | None:
        """Take one row; a finding that became sure by it, each kind once."""
        curve = self._curve
        curve.take(row)
        if row.get("kind") == "first" or (row.get("kind") == "step" and len(curve.steps) > _STEP_ROWS):
            return None
        for rule in EARLY:
            found = rule(curve)
            if found is not None:
                new = found.name not in self._known
                self._known |= {found.name, *EXPLAINS.get(found.name, ())}
                if new:
                    return found
        return None
