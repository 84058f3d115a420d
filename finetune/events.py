"""What happens in a run, told to whoever listens (the terminal, a notebook, a test)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Listener:
    """Every method does nothing; override the ones of interest. Events carry plain values only."""

    def on_message(self, text: str) -> None:
        """A sentence the user should read."""

    def on_data(self, profile: Any) -> None:
        """The data were read; ``profile`` is a data.profile.Profile."""

    def on_backbone(self, facts: dict[str, Any]) -> None:
        """The backbone was built: name, parameters, image_size, device, threads."""

    def on_decision(self, decision: Any) -> None:
        """The strategy was chosen; ``decision`` is a strategy.decision.Decision."""

    def on_plan(self, plan: Any) -> None:
        """The plan to be executed, a strategy.plan.Plan."""

    def on_explanation(self, explanation: Any) -> None:
        """All that was found out on the way to the plan, a strategy.explanation.Explanation; not told again
        when a run is resumed."""

    def on_progress(self, what: str, done: int, total: int) -> None:
        """Work that is not training: images decoded, features computed."""

    def on_phase(self, phase: Any, index: int) -> None:
        """A phase of the plan begins."""

    def on_row(self, row: dict[str, Any]) -> None:
        """A row was appended to metrics.jsonl; told only where the rows are written."""

    def on_step(self, row: dict[str, Any]) -> None:
        """An optimizer step: phase, epoch, epochs, step, steps, loss, accuracy, lr,
        images_per_second, eta_seconds."""

    def on_epoch(self, row: dict[str, Any]) -> None:
        """An epoch ended: what on_step has, and val_loss, val_accuracy, seconds."""

    def on_result(self, result: dict[str, Any]) -> None:
        """The content of result.json."""


class StepsOnly(Listener):
    """Passes steps and progress on and keeps the rest to itself: for one training of several that are alike."""

    def __init__(self, outer: Listener) -> None:
        self.outer = outer

    def on_step(self, row: dict[str, Any]) -> None:
        self.outer.on_step(row)

    def on_progress(self, what: str, done: int, total: int) -> None:
        self.outer.on_progress(what, done, total)


class Listeners(Listener):
    """Tells several listeners, in order, every event that there is."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = listeners


def _to_all(name: str) -> Callable[..., None]:
    def tell(self: Listeners, *values: Any) -> None:
        for listener in self.listeners:
            getattr(listener, name)(*values)

    return tell


for _event in [name for name in vars(Listener) if name.startswith("on_")]:
    setattr(Listeners, _event, _to_all(_event))
