"""``sweep``: prepare once, let the crew work through the stages, train and test the best."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import advice, runtime
from finetune.advice import Setup
from finetune.api import RecipeLike, Run, as_recipe, open_run, resume, run
from finetune.errors import ConfigError, FinetuneError, Interrupted, RunError, StrategyError, must
from finetune.events import Listener
from finetune.files import atomic_write_bytes, atomic_write_json, atomic_write_text
from finetune.pipeline import sigterm_raises
from finetune.recipe import Recipe, seconds_of
from finetune.run_folder import ROOT, RunFolder, check_free, named_after, repeatable
from finetune.search import board
from finetune.search import study as studies
from finetune.search.board import Row
from finetune.search.crew import Crew
from finetune.search.settings import FILE, Settings
from finetune.search.space import default_space, parse_space, values_of
from finetune.search.trial import precision_of
from finetune.search.workers import Workers
from finetune.strategy.plan import GradientPhase, Plan

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle

METRICS = ("log-loss", "accuracy")
_RESERVE = 0.05
"""Share of the time that is kept for testing and writing."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep ends with."""

    path: Path
    """Its folder: best.yaml, trials.csv, importance.png, trials/."""
    rows: tuple[Row, ...]
    """Every trial."""
    best: Row | None
    """None where the time did not reach for a single trial."""
    verdict: str
    """Whether the best is better than the default or luck."""
    run: Run
    """The final run, the only one that saw the test images."""
    images: int
    """To validate on."""
    metric: str

    @property
    def top(self) -> list[Row]:
        """Finished trials, the best first."""
        return board.ranked(self.rows, self.metric)


def sweep(
    recipe: RecipeLike,
    *overrides: str,
    space: str | Path | Mapping[str, Any] | Iterable[str] | None = None,
    trials: int = 20,
    time_limit: float | str | None = None,
    processes: int = 1,
    metric: str = "log-loss",
    sampler: str = "tpe",
    pruner: str = "median",
    storage: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    data: DataBundle | None = None,
    listener: Listener | None = None,
    go_on: str = "",
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
        metric: ``log-loss`` or ``accuracy`` of the validation images. The test images are seen once, at the end.
        sampler: ``tpe``, ``random`` or ``grid``.
        pruner: ``median``, ``asha`` or ``none``: what stops trials that fall behind.
        storage: file of the trials, ``.db`` for SQLite; default: a journal in the folder.
        out: the sweep's folder; default: ``runs/sweep-DATA-STRATEGY``.
        data: images already read; then there is one process.
        listener: is told what happens.
        go_on: the command that goes on, for messages.

    Raises:
        FinetuneError: a wrong argument, images or network; the folder of another sweep.
        Interrupted: Ctrl-C or SIGTERM; the same call goes on.
    """
    studies.require_optuna()
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
    began = time.time()
    folder = Path(out).expanduser() if out is not None else _folder(asked)
    question = {
        "recipe": repeatable(asked).model_dump(mode="json", exclude_unset=True),
        "space": None if wanted is None else {d.key: str(d) for d in wanted},
        "metric": metric, "sampler": sampler, "pruner": pruner,
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
        if not setup.bundle.task.plain:
            raise ConfigError(
                must("The task of a sweep", "single-label", setup.bundle.task.name,
                     "Trials are compared by log-loss or accuracy of classes.")
            )  # fmt: skip
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
            settings = _prepare(asked, wanted, setup, trials, processes, question, kept, heard)
            folder.mkdir(parents=True, exist_ok=True)
            settings.save(folder)
        with _alone(folder):
            deadline = None if seconds is None else began + seconds
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
            return _finish(crew, metric, deadline, heard)


def replaced(recipe: Recipe, processes: int) -> Recipe:
    """The recipe with its share of the compute threads."""
    if processes == 1:
        return recipe
    return recipe.override(threads=max(1, runtime.choose_threads(recipe.threads) // processes))


def _prepare(
    asked: Recipe, wanted: Any, setup: Setup, trials: int, processes: int, question: dict[str, Any],
    storage: Path, listener: Listener,
) -> Settings:  # fmt: skip
    """Decide once what all trials share. The default's recipe says everything that was decided or measured."""
    listener.on_message("Deciding what all trials have in common.")
    found = advice.decide(_bold(asked, wanted), setup, listener)
    plan = found.plan
    banned = sorted({f for phase in plan.phases if isinstance(phase, GradientPhase) for f in phase.avoid})
    train: dict[str, Any] = {
        "avoid": asked.train.avoid if asked.train.avoid is not None else banned,
        "refit": False,
    }
    recipe = asked.override(strategy=plan.strategy, threads=setup.threads)
    recipe = repeatable(_with(recipe, train={**train, **precision_of(plan, setup, recipe, trials)},
                              probe={"fit_on": "train"}))  # fmt: skip
    base, _ = advice.planned(recipe, setup, listener)
    tuned = next((p for p in base.phases if isinstance(p, GradientPhase)), None)
    faster = next((p for p in plan.phases if isinstance(p, GradientPhase)), None)
    if tuned is not None and faster is not None and tuned.lr != faster.lr:  # auto adapts it to the distance
        recipe = _with(recipe, train={"lr": faster.lr, "head_lr": faster.head_lr})
        base, _ = advice.planned(recipe, setup, listener)
        tuned = next(p for p in base.phases if isinstance(p, GradientPhase))
    space = wanted or default_space(base)
    start = values_of(base, recipe, space)
    cost = found.cost
    return Settings(
        recipe=recipe,
        space=space,
        start=start if len(start) == len(space) else {},
        epochs=tuned.epochs if tuned else 0,
        lr=tuned.lr if tuned else None,
        seconds=max(0.1, _trial_seconds(plan, cost.phases) if cost else 0.0),
        test_seconds=cost.test if cost else 0.0,
        metric=question["metric"],
        sampler=question["sampler"],
        pruner=question["pruner"],
        storage=str(storage),
        final={
            "train": asked.train.model_dump(include={"refit"}),
            "probe": asked.probe.model_dump(include={"fit_on"}),
        },
        asked=question,
    )


def _bold(recipe: Recipe, wanted: Any) -> Recipe:
    """With the strongest augmentation that a trial may use, so that what the labels mind is found for all."""
    searched = wanted is None or any(d.key == "train.augment" for d in wanted)
    return _with(recipe, train={"augment": "strong"}) if searched and recipe.train.avoid is None else recipe


def _with(recipe: Recipe, **sections: Mapping[str, Any]) -> Recipe:
    """The recipe with some keys of some sections replaced."""
    tree = recipe.model_dump(exclude_unset=True)
    return recipe.override(**{name: {**tree.get(name, {}), **keys} for name, keys in sections.items()})


def _trial_seconds(plan: Plan, phases: Iterable[float]) -> float:
    """Of the plan without its refit."""
    kept = [
        s
        for phase, s in zip(plan.phases, phases, strict=True)
        if phase.fit_on == "train" or len(plan.phases) == 1
    ]
    return sum(kept)


# --- the end --------------------------------------------------------------------------------------------


def _finish(crew: Crew, metric: str, deadline: float | None, listener: Listener) -> SweepResult:
    """Write the tables, train and test the best."""
    settings, folder = crew.settings, crew.out
    rows = crew.rows()
    board.write_csv(folder / "trials.csv", rows, settings.space)
    best = board.best_of(rows, metric)
    shares = board.importances(crew.study("coarse"), settings.space)
    if shares:
        atomic_write_bytes(folder / "importance.png", board.importance_plot(shares))
    if best is None:
        finished, verdict = (
            _fallback(crew, listener),
            "No trial finished in time: the head alone was solved instead.",
        )
    else:
        _write_best(folder, best, metric)
        default = board.default_for(best, rows)
        rivals = sum(r.state == "complete" and not r.default for r in rows)
        verdict = board.verdict(best, default, rivals, metric)
        finished = _final(crew, best, deadline, listener)
    images = len(crew.setup.bundle.val)
    atomic_write_json(
        folder / "sweep.json",
        {
            "metric": metric,
            "trials": len(rows),
            "finished": sum(r.state == "complete" for r in rows),
            "pruned": sum(r.state == "pruned" for r in rows),
            "best": best and {"trial": best.name, "log_loss": best.log_loss, "accuracy": best.accuracy,
                              "interval": board.interval(best, images), "values": best.values},
            "verdict": verdict,
            "importance": shares,
            "run": str(finished.path),
        },
    )  # fmt: skip
    return SweepResult(folder, tuple(rows), best, verdict, finished, images, metric)


def _write_best(folder: Path, best: Row, metric: str) -> None:
    """best.yaml: the trial's own recipe, which gives its validation figures again."""
    text = (best.path / "recipe.yaml").read_text(encoding="utf-8")
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    head = (
        f"# finetune run --recipe {shlex.quote(str(folder / 'best.yaml'))}\n"
        f"# {best.name} of a sweep, the best by {metric}: validation log-loss {best.log_loss:.6g}, "
        f"accuracy {best.accuracy:.6g}.\n"
    )
    atomic_write_text(folder / "best.yaml", head + body)


def _final(crew: Crew, best: Row, deadline: float | None, listener: Listener) -> Run:
    """The best as a finished run: trained anew with whole schedules and all images where that is due and fits,
    else the trial itself."""
    target = RunFolder(crew.out / "final" / best.name)  # with more trials another one may become the best
    bundle = crew.setup.bundle
    if (target.path / "recipe.yaml").is_file():
        return resume(target.path, data=bundle, listener=listener)
    own = RunFolder(best.path)
    if own.finished:
        return open_run(own.path)
    recipe = own.recipe()
    whole = _with(recipe, **crew.settings.final)
    if best.epochs and best.epochs < crew.settings.epochs:
        epochs = recipe.train.epochs or best.epochs
        whole = _with(whole, train={"epochs": max(1, round(epochs * crew.settings.epochs / best.epochs))})
    quiet = Listener()
    plan, _ = advice.planned(whole, crew.setup, quiet)
    trial, _ = advice.planned(recipe, crew.setup, quiet)
    if plan.phases != trial.phases:
        seconds = best.seconds * _work(plan) / max(1, _work(trial)) + crew.settings.test_seconds
        if deadline is None or time.time() + 1.2 * seconds < deadline:
            listener.on_message(f"Training with the values of {best.name} on whole schedules and all images.")
            return run(whole.override(out=str(target.path)), data=bundle, listener=listener)
        listener.on_message("No time is left to train once more: the best trial itself is taken.")
    own.record_images(bundle)
    own.write_json("env.json", runtime.environment(crew.setup.device))
    return resume(own.path, data=bundle, listener=listener)


def _fallback(crew: Crew, listener: Listener) -> Run:
    """A linear head: seconds, for the features are there."""
    target = RunFolder(crew.out / "final" / "linear")
    if (target.path / "recipe.yaml").is_file():
        return resume(target.path, data=crew.setup.bundle, listener=listener)
    recipe = _with(crew.settings.recipe, **crew.settings.final).override(
        strategy="linear", out=str(target.path)
    )
    return run(recipe, data=crew.setup.bundle, listener=listener)


def _work(plan: Plan) -> int:
    """Epochs, a phase without any counted as one."""
    return sum(phase.epochs if isinstance(phase, GradientPhase) else 1 for phase in plan.phases)


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
