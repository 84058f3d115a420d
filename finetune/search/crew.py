"""What the processes of one sweep do together: claim trials, carry them out, wait for each other."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.advice import Setup
from finetune.errors import FinetuneError, Interrupted, RunError, TrainingError
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.search import board
from finetune.search import study as studies
from finetune.search.dimension import Dimension, Value
from finetune.search.settings import Settings, Stage
from finetune.search.space import grid, settled
from finetune.search.trial import Dropped, Outcome, Watch, run_trial, slim
from finetune.task import Task

if TYPE_CHECKING:
    import optuna

_POLL = 0.2
_MARGIN = 1.2
"""Estimates of time are multiplied by this."""
TOP = 0.25
"""Share of the coarse trials that the fine stage narrows the space around."""


class Crew:
    """One process's part of a sweep. ``finetune.search.driver`` has one, each worker another."""

    def __init__(
        self,
        settings: Settings,
        setup: Setup,
        out: Path,
        trials: int,
        *,
        listener: Listener,
        deadline: float | None = None,
        parallel: bool = False,
        alive: Callable[[], bool] = lambda: True,
        others: Callable[[], Sequence[int]] | None = None,
    ) -> None:
        self.settings, self.setup, self.out, self.trials = settings, setup, out, trials
        self.listener, self.parallel, self.alive, self.others = listener, parallel, alive, others
        self.deadline = deadline
        """Wall clock by which the last trial is over; what comes after it has its own share of the time."""
        self.mutex = studies.Mutex(out / ".mutex")
        self._announced: set[str] = set()
        self._studies: dict[str, optuna.Study] = {}

    def work(self) -> None:
        """All stages. Raises KeyboardInterrupt where it is stopped, FinetuneError where no trial can be run."""
        coarse, *fine = self.settings.stages(self.trials)
        self._stage(coarse)
        for stage in fine:
            if self._worth_while(stage):
                self._stage(stage)
            else:  # its trials and its time go to the coarse stage
                self._stage(replace(coarse, trials=self.trials))

    def study(self, stage: str) -> optuna.Study:
        """The trials of a stage."""
        if stage not in self._studies:
            name, storage = f"{self.out.name} {stage}", Path(self.settings.storage)
            self._studies[stage] = studies.open_study(storage, name, self.settings.maximize)
        return self._studies[stage]

    @property
    def task(self) -> Task:
        """What all trials learn."""
        return self.setup.bundle.task

    def rows(self) -> list[board.Row]:
        """All trials of all stages."""
        stages = self.settings.stages(self.trials)
        return [
            row for stage in stages for row in board.rows_of(self.study(stage.name), stage.name, self.out)
        ]

    def done(self) -> int:
        """Trials that are over and count."""
        return sum(_counts(row.state, row.reason) and row.state != "running" for row in self.rows())

    def _worth_while(self, stage: Stage) -> bool:
        """Whether there is time for a fine stage: for the default and the best so far on schedules no shorter than
        the coarse ones. The first process that comes so far says it for all."""
        study, epochs = self.study(stage.name), self._coarse_epochs()
        with self.mutex.held():
            known = study.user_attrs
            if "epochs" in known or self.deadline is None or not self.settings.epochs:
                return True
            if known.get("left_out") == self.deadline:
                return False
            rounds = 1 if self.parallel else 2  # processes carry the two out side by side
            if rounds * _MARGIN * self._seconds(epochs) <= self.deadline - time.time():
                return True
            study.set_user_attr("left_out", self.deadline)
        self.listener.on_message(
            f"No fine stage: the time left does not reach for trials of {epochs} epochs or more, as many as the coarse "
            "ones had. What is left goes on with those."
        )
        return False

    def _coarse_epochs(self) -> int:
        return int(self.study("coarse").user_attrs.get("epochs", 0))

    # --- one stage --------------------------------------------------------------------------------------

    def _stage(self, stage: Stage) -> None:
        study = self.study(stage.name)
        space = self._space(stage)
        with self.mutex.held():
            if "epochs" not in study.user_attrs:
                self._begin(study, stage, space)
        epochs = int(study.user_attrs["epochs"])
        study.pruner = studies.pruner(self.settings.pruner, epochs)
        while (trial := self._claim(study, stage, epochs)) is not None:
            self._run(study, stage, trial, epochs, space)
            self._announce()
        while self._busy(study):
            time.sleep(_POLL)
            self._announce()

    def _begin(self, study: optuna.Study, stage: Stage, space: Sequence[Dimension]) -> None:
        """Say how long its trials train, and queue what comes first: the default, the best so far, the grid."""
        epochs = self._epochs(stage)
        studies.enqueue(study, self.settings.start, {"default": True})
        best = board.best_of([row for row in self.rows() if row.stage != stage.name], self.settings.metric)
        if best is not None and not best.default:
            studies.enqueue(study, best.values, {})
        if self.settings.sampler == "grid":
            import random

            left = stage.trials - len(study.get_trials(deepcopy=False))
            cells = grid(space, max(1, left))
            random.Random(self.settings.recipe.seed).shuffle(cells)
            for cell in cells[:left]:
                studies.enqueue(study, cell, {})
        study.set_user_attr("epochs", epochs)

    def _space(self, stage: Stage) -> tuple[Dimension, ...]:
        """The whole space, or that around the best quarter of the coarse trials."""
        space = self.settings.space
        if stage.name == "coarse":
            return space
        ranked = board.ranked(board.rows_of(self.study("coarse"), "coarse", self.out), self.settings.metric)
        good = ranked[: max(2, round(TOP * len(ranked)))]
        return tuple(d.narrowed([r.values[d.key] for r in good if d.key in r.values]) for d in space)

    def _claim(self, study: optuna.Study, stage: Stage, epochs: int) -> optuna.Trial | None:
        """The next trial of the stage; None where all are claimed or none can finish in time."""
        with self.mutex.held():
            rows = board.rows_of(study, stage.name, self.out)
            counted = sum(_counts(row.state, row.reason) for row in rows)
            if counted >= stage.trials or not self._fits(stage, epochs):
                return None
            number = len(rows)
            seed = (self.settings.recipe.seed + 7919 * number + 104_729 * (stage.name == "fine")) % 2**32
            study.sampler = studies.sampler(self.settings.sampler, seed, stage.trials, self.parallel)
            trial = study.ask()
            trial.set_user_attr("pid", os.getpid())
            trial.set_user_attr("epochs", epochs)
            return trial

    def _run(
        self, study: optuna.Study, stage: Stage, trial: optuna.Trial, epochs: int, space: Sequence[Dimension]
    ) -> None:
        from optuna.trial import TrialState

        default = bool(trial.user_attrs.get("default"))
        path = self.out / "trials" / board.trial_name(stage.name, trial.number)
        watch = Watch(
            self.listener, trial, metric=self.settings.metric, keep=default, deadline=self.deadline, alive=self.alive,
        )  # fmt: skip
        state = TrialState.PRUNED
        try:
            values = studies.suggest(trial, space) if not default or self._inside(space) else {}
            recipe = self.recipe(values, default, epochs)
            outcome = run_trial(recipe, self.setup, path, watch, undo=default)
        except (Dropped, TrainingError) as error:
            reason = (
                str(error) if isinstance(error, Dropped) else f"training diverged: {_first_sentence(error)}"
            )
        except (KeyboardInterrupt, Interrupted):
            with self.mutex.held():
                studies.give_up(study, study.get_trials(deepcopy=False)[trial.number])
            raise KeyboardInterrupt from None
        except RunError:
            study.tell(trial, state=TrialState.FAIL)
            raise  # a full disk fails every trial
        except FinetuneError as error:
            if default:
                study.tell(trial, state=TrialState.FAIL)
                raise
            reason, state = str(error).splitlines()[0], TrialState.FAIL
        else:
            self._keep(study, trial, outcome)
            return
        slim(path)
        trial.set_user_attr("reason", reason)
        study.tell(trial, state=state)

    def _inside(self, space: Sequence[Dimension]) -> bool:
        """Whether the default is a point of the space."""
        return all(d.key in self.settings.start and d.holds(self.settings.start[d.key]) for d in space)

    def _keep(self, study: optuna.Study, trial: optuna.Trial, outcome: Outcome) -> None:
        """Write the figures down, and keep the weights of the best trial only."""
        for key in ("log_loss", "accuracy", "seconds", "head_alone"):
            trial.set_user_attr(key, getattr(outcome, key))
        value = outcome.accuracy if self.settings.maximize else outcome.log_loss
        with self.mutex.held():
            study.tell(trial, value)
            for row in board.ranked(self.rows(), self.settings.metric)[1:]:
                slim(row.path)

    def recipe(self, values: dict[str, Value], default: bool, epochs: int) -> Recipe:
        """A trial's recipe: the default's, its own values, and a schedule of the stage's length."""
        settings = self.settings
        recipe = settings.recipe if default else settled(settings.recipe, values, settings.space, settings.lr)
        if not settings.epochs:
            return recipe
        share = epochs / settings.epochs
        asked = recipe.train.epochs if "train.epochs" in values and not default else None
        return recipe.override(f"train.epochs={max(1, round(asked * share)) if asked else epochs}")

    # --- time -------------------------------------------------------------------------------------------

    def _epochs(self, stage: Stage) -> int:
        """How many epochs the stage's trials get: its share, or what the time left allows to all of them."""
        full = self.settings.epochs
        wanted = max(1, round(stage.share * full)) if full else 0
        if self.deadline is None or not full:
            return wanted
        left = max(0.0, self.deadline - time.time())
        stages = self.settings.stages(self.trials)
        mine = left / 2 if stage == stages[0] and len(stages) > 1 else left
        each = mine / stage.trials / (_MARGIN * self._seconds(full))
        one = 0.5 * left / (_MARGIN * self._seconds(full))
        lowest = max(1, min(round(0.1 * full), int(one * full)))
        if stage.name == "fine":  # fewer trials rather than shorter ones
            lowest = max(lowest, self._coarse_epochs())
        return max(lowest, min(wanted, int(each * full)))

    def _fits(self, stage: Stage, epochs: int) -> bool:
        """Whether a trial can finish in time. The very first is always tried: it has been cut to fit."""
        if self.deadline is None:
            return True
        left = self.deadline - time.time()
        first = not any(row.state in ("complete", "running") for row in self.rows())
        return left > 0 and (first or _MARGIN * self._seconds(epochs) <= left)

    def _seconds(self, epochs: int) -> float:
        """Of a trial of so many epochs: by the slowest finished one, else by the estimate."""
        full = self.settings.epochs
        measured = [
            row.seconds * (epochs / row.epochs if full and row.epochs else 1.0)
            for row in self.rows()
            if row.state == "complete"
        ]
        return max(measured) if measured else self.settings.seconds * (epochs / full if full else 1.0)

    # --- the others -------------------------------------------------------------------------------------

    def _busy(self, study: optuna.Study) -> bool:
        """Whether other processes still have trials of the stage in hand. Raises KeyboardInterrupt if stopped."""
        if not self.alive():
            raise KeyboardInterrupt
        if self.others is not None:
            with self.mutex.held():
                studies.fail_stale(study, (os.getpid(), *self.others()))
        return any(trial.state.name == "RUNNING" for trial in study.get_trials(deepcopy=False))

    def _announce(self) -> None:
        """A line for each trial that is over, whoever carried it out."""
        for row in self.rows():
            if row.state in ("complete", "pruned", "failed") and row.name not in self._announced:
                self._announced.add(row.name)
                self.listener.on_message(row.told(self.task))


def _first_sentence(error: Exception) -> str:
    """What an error says, without the advice.

    >>> _first_sentence(ValueError("The smoothed loss is more than 3 times the first (0.7) at step 9. Lower it."))
    'The smoothed loss is more than 3 times the first (0.7) at step 9'
    """
    return re.split(r"\.\s", str(error).splitlines()[0], maxsplit=1)[0].rstrip(".")


def _counts(state: str, reason: str) -> bool:
    """Whether a trial is one of those that were asked for: interrupted ones are not, their place comes again."""
    return state in ("complete", "pruned", "running") or (state == "failed" and bool(reason))
