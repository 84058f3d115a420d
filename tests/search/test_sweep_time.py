"""The time of a sweep: what the fine stage gets, and what is kept for the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.search import crew as crew_module
from finetune.search.driver import ending
from finetune.search.settings import Settings


def crew_of(folder: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch, **keys: Any) -> Any:
    """100 epochs take 1000 s by the estimate; a coarse trial of 10 epochs took 100."""

    class Ear(Listener):
        def __init__(self) -> None:
            self.messages: list[str] = []

        def on_message(self, text: str) -> None:
            self.messages.append(text)

    class Fake:
        time = staticmethod(lambda: clock[0])
        sleep = time

    monkeypatch.setattr(crew_module, "time", Fake)
    kept = str(folder / "study.journal")
    settings = Settings(Recipe(), (), {}, 100, 0.1, 1000.0, 1.0, "log-loss", "tpe", "median", kept, {}, {})
    crew = crew_module.Crew(settings, None, folder, 8, listener=Ear(), **keys)  # type: ignore[arg-type]
    study = crew.study("coarse")
    study.set_user_attr("epochs", 10)
    trial = study.ask()
    for key, value in {"epochs": 10, "seconds": 100.0, "log_loss": 0.5, "accuracy": 0.5}.items():
        trial.set_user_attr(key, value)
    study.tell(trial, 0.5)
    return crew


@pytest.mark.parametrize(
    ("left", "epochs"), [(100_000.0, 100), (3_600.0, 100), (700.0, 19), (300.0, 10), (200.0, 0)]
)
def test_a_fine_trial_has_no_fewer_epochs_than_a_coarse_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float, epochs: int
) -> None:
    crew = crew_of(tmp_path, [0.0], monkeypatch, deadline=left)
    begun: list[tuple[str, int, int]] = []
    crew._stage = lambda stage: begun.append((stage.name, stage.trials, crew._epochs(stage)))
    crew.work()
    if epochs:
        assert [(name, trials) for name, trials, _ in begun] == [("coarse", 5), ("fine", 3)]
        assert begun[1][2] == epochs >= 10
        assert crew.listener.messages == []
    else:  # two trials of 120 s do not fit: the coarse stage goes on
        assert [(name, trials) for name, trials, _ in begun] == [("coarse", 5), ("coarse", 8)]
        assert crew.listener.messages[0].startswith(
            "No fine stage: the time left does not reach for trials of 10"
        )
    again: list[str] = []
    crew._stage = lambda stage: again.append(stage.name)
    crew.work()
    assert again == [name for name, _, _ in begun]
    assert len(crew.listener.messages) == (not epochs), "said once"


def test_the_end_of_a_sweep_takes_as_long_as_its_start() -> None:
    assert [ending(s) for s in (0.0, 3.0, 100.0)] == [4, 6, 20]
