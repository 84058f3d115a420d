"""``sweep``: prepare once, let the crew work through the stages, train and test the best."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import advice, runtime
from finetune.api import RecipeLike, as_recipe
from finetune.errors import ConfigError, FinetuneError, Interrupted, RunError, StrategyError, must
from finetune.events import Listener
from finetune.recipe import Recipe, seconds_of
from finetune.run_folder import ROOT, check_free, named_after, repeatable
from finetune.search import study as studies
from finetune.search.crew import Crew
from finetune.search.finish import SweepResult, finish
from finetune.search.measure import LOSSES, METRICS, metric_for
from finetune.search.prepare import prepare
from finetune.search.settings import FILE, Settings
from finetune.search.space import parse_space
from finetune.search.workers import Workers
from finetune.training.interrupt import sigterm_raises

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle

_RESERVE = 0.05
"""Share of the time that is kept for testing and writing ..."""
_ENDING, _OF_START, _LONGEST = 4.0, 2.0, 20.0
"""... and so many seconds for drawing and ending, at least this multiple of what the start of the command took, up to a
limit: both load libraries, on a machine that may be slow or busy."""


def sweep(
    recipe: RecipeLike,
    *overrides: str,
    space: str | Path | Mapping[str, Any] | Iterable[str] | None = None,
    trials: int = 20,
    time_limit: float | str | None = None,
    processes: int = 1,
    metric: str | None = None,
    sampler: str = "tpe",
    pruner: str = "median",
    storage: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    data: DataBundle | None = None,
    listener: Listener | None = None,
    go_on: str = "",
    began: float | None = None,
) -> SweepResult:
    """Search recipe keys for the best validation figure; train and test the best.

    A coarse stage tries the whole space on short schedules, a fine stage the neighbourhood of its best quarter on
    whole ones. Called again with the same question it goes on where it was, and a finished sweep is returned.

    Args:
        recipe: as for ``finetune.run``; what is not searched stays as it says.
        overrides: ``"key=value"`` strings.
        space: a YAML file, a mapping, or ``"key=log(1e-4,1e-1)"`` strings; default: what suits the strategy.
        trials: of both stages together.
        time_limit: seconds, or ``"10m"``: fewer epochs a trial and no trial that cannot finish.
        processes: that share the trials.
        metric: the task's loss or score of the validation images: ``log-loss`` (default) or ``accuracy``; of labels
            ``log-loss`` or ``f1``; of a number ``squared-error`` (in units of their variance) or ``r2``. The test
            images are seen once, at the end.
        sampler: ``tpe``, ``gp`` (a Gaussian process), ``random`` or ``grid``.
        pruner: ``median``, ``asha`` or ``none``: what stops trials that fall behind.
        storage: file of the trials, ``.db`` for SQLite; default: a journal in the folder.
        out: the sweep's folder; default: ``runs/sweep-DATA-STRATEGY``.
        data: images already read; then there is one process.
        listener: is told what happens.
        go_on: the command that goes on, for messages.
        began: the ``time.monotonic()`` from which the time counts; default: now.

    Raises:
        FinetuneError: a wrong argument, images or network; the folder of another sweep.
        Interrupted: Ctrl-C or SIGTERM; the same call goes on.
    """
    studies.require_optuna()
    if metric is not None and metric not in METRICS:
        studies.require_choice("--metric", metric, METRICS)
    studies.require_choice("--sampler", sampler, studies.SAMPLERS)
    studies.require_choice("--pruner", pruner, studies.PRUNERS)
    for name, number in (("--trials", trials), ("--processes", processes)):
        if number < 1:
            raise ConfigError(must(name, "an int > 0", number))
    seconds = _time(time_limit)
    asked = as_recipe(recipe, *overrides).override(budget=None, name=None, out=None)
    if data is not None and processes > 1:
        raise ConfigError(must("--processes", "1 where the images are given in memory", processes))
    wanted = None if space is None else parse_space(space)
    started = 0.0 if began is None else time.monotonic() - began
    wall = time.time() - started  # the same in all processes
    folder = Path(out).expanduser() if out is not None else _folder(asked)
    question = {
        "recipe": repeatable(asked).model_dump(mode="json", exclude_unset=True),
        "space": None if wanted is None else {d.key: str(d) for d in wanted},
        "metric": "log-loss" if metric is None or metric in LOSSES else metric,  # every task has one loss
        "sampler": sampler, "pruner": pruner,
    }  # fmt: skip
    heard = listener or Listener()
    known = (folder / FILE).is_file()
    if known:
        Settings.load(folder).require_same(question, folder)
    else:
        check_free(folder, "The sweep's folder")
    go_on = go_on or f"finetune.search.sweep(..., out={str(folder)!r})"
    with _whole_process(folder, go_on) as stop, sigterm_raises():
        setup = advice.set_up(replaced(asked, processes), data, heard)
        metric = metric_for(metric, setup.bundle.task)
        if len(setup.bundle.val) == 0:
            raise StrategyError(must("the validation split", "at least one image for a sweep", 0))
        if known:
            settings = Settings.load(folder)
        else:
            kept = (
                Path(storage).expanduser().resolve()
                if storage is not None
                else (folder / "study.journal").resolve()
            )
            settings = prepare(asked, wanted, setup, trials, question, metric, kept, heard)
            folder.mkdir(parents=True, exist_ok=True)
            settings.save(folder)
        with _alone(folder):
            deadline = None if seconds is None else wall + seconds - ending(started)
            reserve = 0.0 if seconds is None else _RESERVE * seconds + settings.test_seconds
            with Workers(folder, processes - 1, trials, deadline and deadline - reserve, heard) as workers:
                crew = Crew(
                    settings, setup, folder, trials, listener=heard, parallel=processes > 1,
                    deadline=deadline and deadline - reserve, others=workers.pids,
                )  # fmt: skip
                stop.crew = crew
                studies.unlock(Path(settings.storage))
                for stage in settings.stages(trials):
                    studies.fail_stale(crew.study(stage.name))
                workers.start()
                crew.work()
            return finish(crew, deadline, heard)


def ending(started: float) -> float:
    """Seconds that drawing and ending take, where the start took so many."""
    return max(_ENDING, min(_OF_START * started, _LONGEST))


def replaced(recipe: Recipe, processes: int) -> Recipe:
    """The recipe with its share of the compute threads."""
    if processes == 1:
        return recipe
    return recipe.override(threads=max(1, runtime.choose_threads(recipe.threads) // processes))


# --- the process ----------------------------------------------------------------------------------------


def _folder(recipe: Recipe) -> Path:
    """The same for the same command, so that it goes on."""
    source = named_after(recipe.data.path)
    return ROOT / f"sweep-{source}-{recipe.strategy}"


def _time(given: float | str | None) -> float | None:
    try:
        seconds = seconds_of(given)
    except ValueError as error:
        raise ConfigError(f"--time {error}. Got {given!r} instead.") from None
    if seconds is not None and seconds <= 0:
        raise ConfigError(must("--time", "more than 0 seconds", given))
    return None if seconds is None else float(seconds)


class _Stop:
    """What is known when a sweep is stopped."""

    crew: Crew | None = None


@contextlib.contextmanager
def _whole_process(folder: Path, go_on: str) -> Iterator[_Stop]:
    """Ctrl-C at any point becomes Interrupted with what to type next."""
    stop = _Stop()
    try:
        yield stop
    except (KeyboardInterrupt, Interrupted):
        told = "before the first trial"
        with contextlib.suppress(FinetuneError):
            if stop.crew is not None:
                told = f"with {stop.crew.done()} of {stop.crew.trials} trials done"
        raise Interrupted(f"Stopped {told}. Go on with: {go_on}") from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raises RunError where another sweep is at work in the folder."""
    presence = studies.Presence(folder / ".lock")
    try:
        if not presence.alone():
            raise RunError(
                f"Another sweep is at work in {folder}. Wait for it, or give more --processes to one sweep."
            )
        yield
    finally:
        presence.close()


__all__ = ["SweepResult", "sweep"]
