"""What a run tells on the screen, in order: data, backbone, decision, plan, training, result, what next."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.text import Text

from finetune.cli import screen
from finetune.cli.live import Bar
from finetune.cli.result import show_scores
from finetune.events import Listener
from finetune.files import json_text
from finetune.version import __version__


class Story(Listener):
    """Prints a run as it happens; ``quiet`` prints the result only.

    With ``json`` stdout gets one document, the explanation, and stderr everything else.
    """

    def __init__(self, quiet: bool = False, json: bool = False) -> None:
        self.quiet, self.json = quiet, json
        self.stage_names: tuple[str, ...] = ()
        self.path: Path | None = None
        self._elsewhere = contextlib.ExitStack()
        self._stdout = sys.stdout
        self.bar = Bar()

    def __enter__(self) -> Story:
        if self.json:  # stdout is the document's: the story moves to stderr
            self._elsewhere.enter_context(contextlib.redirect_stdout(sys.stderr))
            self.bar = Bar()  # asks again whether somebody watches
        if not self.quiet:
            screen.say(f"finetune {__version__}", style="dim")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        self._elsewhere.close()

    def on_message(self, text: str) -> None:
        if not self.quiet:
            self.bar.close()
            screen.say(text, style="dim")

    def on_data(self, profile: Any) -> None:
        if self.quiet:
            return
        self.bar.close()
        from finetune.cli.describe import data_lines

        _block("Data", data_lines(profile))

    def on_backbone(self, facts: dict[str, Any]) -> None:
        self.stage_names = tuple(facts["stages"])
        if self.quiet:
            return
        self.bar.close()
        from finetune.cli.describe import backbone_lines

        _block("Backbone", backbone_lines(facts))

    def on_decision(self, decision: Any) -> None:
        if self.quiet:
            return
        self.bar.close()
        from finetune.cli.describe import show_decision

        screen.heading("Decision")
        show_decision(decision, self.stage_names)

    def on_plan(self, plan: Any) -> None:
        if self.quiet:
            return
        self.bar.close()
        from finetune.cli.describe import show_plan

        screen.heading("Plan")
        show_plan(plan)
        screen.say()

    def on_explanation(self, explanation: Any) -> None:
        if self.json:
            print(json_text(explanation.document()), file=self._stdout, flush=True)
        if self.quiet:
            return
        self.bar.close()
        from finetune.cli.describe import show_explanation

        show_explanation(explanation)
        screen.say()

    def on_progress(self, what: str, done: int, total: int) -> None:
        if not self.quiet:
            self.bar.work(what, done, total)

    def on_phase(self, phase: Any, index: int) -> None:
        if not self.quiet:
            self.bar.close()
            screen.say(f"Phase {index + 1}: {phase.name}", style="bold")

    def on_step(self, row: dict[str, Any]) -> None:
        if not self.quiet:
            self.bar.step(row)

    def on_epoch(self, row: dict[str, Any]) -> None:
        if not self.quiet:
            self.bar.epoch(row)

    def on_result(self, result: dict[str, Any]) -> None:
        self.bar.close()
        if not self.quiet:
            screen.heading("Result")
        show_scores(result["test"], "Test {}")

    def ending(self, path: Path, result: dict[str, Any]) -> None:
        """Cost, where everything lies, and what to type next."""
        trained, parameters = screen.count(result["trained_parameters"]), screen.count(result["parameters"])
        spent = f"{screen.duration(result['seconds'])} in all."
        cost = f"{trained} of {parameters} parameters trained, {spent}"
        changed = result.get("changed_parameters", result["trained_parameters"])
        if changed < result["trained_parameters"]:
            where = f"{screen.count(changed)} of {parameters} parameters"
            if changed == result.get("head_parameters"):
                where = f"its head only ({where})"
            cost = (
                f"The network differs from the one that the run began with in {where}; "
                f"{trained} were trained, {spent}"
            )
        screen.say()
        kept = result.get("kept") or {}
        if kept.get("epoch") == 0 or kept.get("blend") == 0:
            screen.say("Training did not beat the linear head on validation; the head is kept.")
        screen.say(cost)
        self._coach(result.get("coach") or [])
        screen.say_long(f"Everything is in {path}")
        if self.quiet:
            return
        screen.heading("Next")
        run = shlex.quote(str(path))
        # An ensemble has no single network to export, other heads and norms no place in exported weights.
        exports = "members" not in result.get("test", {}) and result.get("exports", result.get("plain", True))
        for command in (
            f"finetune predict {run} IMAGE...",
            f"finetune evaluate {run} --data DIR",
            *([f"finetune export {run} --format safetensors --out DIR"] if exports else []),
        ):
            screen.say_long(f"  {command}")

    def _coach(self, findings: list[dict[str, Any]]) -> None:
        """What the curves say; of a quiet run only where something is wrong."""
        from finetune.cli.coach import show_findings

        told = [f for f in findings if f["severity"] != "note"] if self.quiet else findings
        if told:
            screen.heading("Coach")
            show_findings(told, most=3)
            screen.say()


def _block(title: str, lines: list[str]) -> None:
    """A title in the margin and lines beside it, wrapped there."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=8, style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for i, line in enumerate(lines):
        grid.add_row(title if i == 0 else "", Text(line))
    screen.show(grid)
