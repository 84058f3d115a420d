"""After the last trial: the tables, the verdict, and the best as a finished run."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from finetune import advice, runtime
from finetune.api import Run, open_run, resume, run
from finetune.events import Listener
from finetune.files import atomic_write_bytes, atomic_write_json, atomic_write_text
from finetune.run_folder import RunFolder
from finetune.search import board
from finetune.search.board import Row
from finetune.search.crew import Crew
from finetune.search.measure import column, loss_of, named
from finetune.search.prepare import with_keys
from finetune.strategy.plan import GradientPhase, Plan
from finetune.task import SINGLE_LABEL, Task


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
    task: Task = SINGLE_LABEL

    @property
    def top(self) -> list[Row]:
        """Finished trials, the best first."""
        return board.ranked(self.rows, self.metric)


def finish(crew: Crew, deadline: float | None, listener: Listener) -> SweepResult:
    """Write the tables, train and test the best."""
    settings, folder, task = crew.settings, crew.out, crew.task
    metric, rows = settings.metric, crew.rows()
    board.write_csv(folder / "trials.csv", rows, settings.space, task)
    best = board.best_of(rows, metric)
    shares = board.importances(crew.study("coarse"), settings.space)
    if shares:
        atomic_write_bytes(folder / "importance.png", board.importance_plot(shares))
    else:
        ended = sum(row.stage == "coarse" and row.state == "complete" for row in rows)
        listener.on_message(board.no_plot_line(ended))
    if best is None:
        finished, verdict = (
            _fallback(crew, listener),
            "No trial finished in time: the head alone was solved instead.",
        )
    else:
        _write_best(folder, best, metric, task)
        default = board.default_for(best, rows)
        rivals = sum(r.state == "complete" and not r.default for r in rows)
        verdict = board.verdict(best, default, rivals, metric, task)
        finished = _final(crew, best, deadline, listener)
    images = len(crew.setup.bundle.val)
    atomic_write_json(
        folder / "sweep.json",
        {
            "metric": metric,
            "trials": len(rows),
            "finished": sum(r.state == "complete" for r in rows),
            "pruned": sum(r.state == "pruned" for r in rows),
            "best": best and {"trial": best.name, column(loss_of(task)): best.log_loss, task.score: best.accuracy,
                              "interval": board.interval(best, images, task), "values": best.values},
            "verdict": verdict,
            "importance": shares,
            "run": str(finished.path),
        },
    )  # fmt: skip
    return SweepResult(folder, tuple(rows), best, verdict, finished, images, metric, task)


def _write_best(folder: Path, best: Row, metric: str, task: Task) -> None:
    """best.yaml: the trial's own recipe, which gives its validation figures again."""
    text = (best.path / "recipe.yaml").read_text(encoding="utf-8")
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    head = (
        f"# finetune run --recipe {shlex.quote(str(folder / 'best.yaml'))}\n"
        f"# {best.name} of a sweep, the best by {metric}: validation {task.loss_name} {best.log_loss:.6g}, "
        f"{named(task)} {best.accuracy:.6g}.\n"
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
    whole = with_keys(recipe, **crew.settings.final)
    if best.epochs and best.epochs < crew.settings.epochs:
        epochs = recipe.train.epochs or best.epochs
        whole = with_keys(whole, train={"epochs": max(1, round(epochs * crew.settings.epochs / best.epochs))})
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
    recipe = with_keys(crew.settings.recipe, **crew.settings.final).override(
        strategy="linear", out=str(target.path)
    )
    return run(recipe, data=crew.setup.bundle, listener=listener)


def _work(plan: Plan) -> int:
    """Epochs, a phase without any counted as one."""
    return sum(phase.epochs if isinstance(phase, GradientPhase) else 1 for phase in plan.phases)
