"""The trials as they stand: ranked, as a table, and whether the best is better than the default or luck."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluation.scores import bootstrap
from finetune.evaluation.table import write_rows
from finetune.interval import wilson
from finetune.search.dimension import Dimension
from finetune.search.measure import SCORES, column, loss_of, named, shown
from finetune.search.trial import Outcome
from finetune.task import SINGLE_LABEL, Task

if TYPE_CHECKING:
    import optuna

ENOUGH = 8
"""Finished trials from which on it is said which keys mattered."""


@dataclass(frozen=True)
class Row:
    """One trial."""

    stage: str
    number: int
    state: str
    """complete, pruned, failed, running or waiting."""
    default: bool
    """Whether it is the recipe as it was given."""
    values: dict[str, Any]
    epochs: int = 0
    log_loss: float = math.nan
    """Of the validation images: of another task than single-label its own loss."""
    accuracy: float = math.nan
    """Of the validation images: of another task its own score, F1 or R2."""
    seconds: float = math.nan
    reason: str = ""
    """Why it did not finish."""
    head_alone: bool = False
    """Whether nothing of its training was kept, but the head that was solved before it."""
    path: Path = field(default=Path())

    @property
    def name(self) -> str:
        """Of its folder."""
        return trial_name(self.stage, self.number)

    def value(self, metric: str) -> float:
        """What is searched for, the lower the better."""
        return -self.accuracy if metric in SCORES else self.log_loss

    def told(self, task: Task = SINGLE_LABEL) -> str:
        """One line of the story."""
        what = (
            "default" if self.default else ", ".join(f"{_leaf(k)}={brief(v)}" for k, v in self.values.items())
        )
        if self.state != "complete":
            return f"{self.name} {self.state}: {self.reason or 'interrupted'} ({what})"
        score = shown(self.accuracy, task) if task.plain else f"{named(task)} {shown(self.accuracy, task)}"
        return f"{self.name}: {task.loss_name} {self.log_loss:.3f}, {score} ({what})"


def trial_name(stage: str, number: int) -> str:
    """
    >>> trial_name("coarse", 7)
    'coarse-0007'
    """
    return f"{stage}-{number:04d}"


def rows_of(study: optuna.Study, stage: str, folder: Path) -> list[Row]:
    """The trials of one stage, in order."""
    words = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
    found = []
    for trial in study.get_trials(deepcopy=False):
        facts = trial.user_attrs
        kept = {
            k: facts[k]
            for k in ("epochs", "log_loss", "accuracy", "seconds", "reason", "head_alone")
            if k in facts
        }
        values = dict(trial.params or trial.system_attrs.get("fixed_params", {}))
        found.append(
            Row(
                stage, trial.number, words.get(trial.state.name, "waiting"), bool(facts.get("default")), values,
                path=folder / "trials" / trial_name(stage, trial.number), **kept,
            )
        )  # fmt: skip
    return found


def ranked(rows: Sequence[Row], metric: str) -> list[Row]:
    """Finished trials, those on longer schedules before those on shorter ones, whatever their stage; the best first."""
    done = [row for row in rows if row.state == "complete"]
    return sorted(done, key=lambda row: (-row.epochs, row.value(metric), row.stage != "fine", row.number))


def best_of(rows: Sequence[Row], metric: str) -> Row | None:
    """The best finished trial of those that trained longest."""
    return next(iter(ranked(rows, metric)), None)


def default_for(best: Row, rows: Sequence[Row]) -> Row | None:
    """The default on a schedule as long as the best's, to compare it with."""
    alike = [r for r in rows if r.default and r.state == "complete" and r.epochs == best.epochs]
    return min(alike, key=lambda row: row.stage != best.stage, default=None)


def verdict(best: Row, default: Row | None, rivals: int, metric: str, task: Task = SINGLE_LABEL) -> str:
    """Whether the best of so many trials beats the default on the same validation images by more than luck.

    The paired difference is held against the quantile that the luckiest of ``rivals`` trials without any
    merit would reach in one sweep of twenty (Bonferroni).
    """
    what = named(task) if metric == task.score else task.loss_name
    if default is None:
        return "The default did not finish on as many epochs: nothing to compare the best with."
    if best.name == default.name:
        return "No trial was better than the default."
    mine, theirs = Outcome.load(best.path), Outcome.load(default.path)
    if mine is None or theirs is None or len(mine.losses) != len(theirs.losses):
        return "The trials' validation figures are gone: the best cannot be compared with the default."
    if metric == task.score:
        gain = mine.right.astype(np.float64) - theirs.right
    else:
        gain = theirs.losses - mine.losses
    n = len(gain)
    error = float(gain.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
    limit = NormalDist().inv_cdf(1 - 0.05 / max(1, rivals))
    unit, scale, digits = (" points", 100.0, 1) if metric in ("accuracy", "f1") else ("", 1.0, 3)
    size = f"{scale * float(gain.mean()):.{digits}f}{unit} +- {scale * error:.{digits}f}"
    told = f"{best.name} is better than the default by {size} of {what} (paired, {n} validation images)"
    if float(gain.mean()) > limit * error:
        return f"{told}: more than luck among {rivals} trials."
    return f"{told}: no more than the luckiest of {rivals} trials may show. The default is as good a choice."


def tied_line(rows: Sequence[Row]) -> str | None:
    """What is said where several finished trials have the same figures, because none of their trainings was kept.

    >>> heads = [Row("coarse", n, "complete", n == 0, {}, 9, 0.5, 0.9, head_alone=True) for n in range(3)]
    >>> tied_line(heads), tied_line(heads[:1])
    ('3 trials kept the head alone: tied at 0.500.', None)
    """
    alone = Counter(f"{r.log_loss:.3f}" for r in rows if r.head_alone and r.state == "complete")
    told = [
        f"{count} trials kept the head alone: tied at {loss}."
        for loss, count in alone.most_common()
        if count > 1
    ]
    return " ".join(told) or None


def interval(row: Row, images: int, task: Task = SINGLE_LABEL) -> tuple[float, float]:
    """95% interval of the score: Wilson's of an accuracy; else by the bootstrap over the images, of R2 with the
    variance held; NaN where the trial's figures are gone."""
    if task.plain:
        return wilson(round(row.accuracy * images), images)
    kept = Outcome.load(row.path)
    if kept is None:
        return math.nan, math.nan
    scores = kept.right
    (ends,) = bootstrap(
        lambda draw: (float(scores[draw].mean()),), (kept.accuracy,), len(scores), float(len(scores))
    )
    return ends


def write_csv(path: Path, rows: Sequence[Row], space: Sequence[Dimension], task: Task = SINGLE_LABEL) -> None:
    """trials.csv: one row a trial, a column a key."""
    keys = [d.key for d in space]
    figures = (column(loss_of(task)), task.score)
    columns = ("trial", "state", "default", *figures, "epochs", "seconds", "reason", *keys)
    table = [
        (
            row.name, row.state, "yes" if row.default else "", _cell(row.log_loss), _cell(row.accuracy),
            row.epochs or "", _cell(row.seconds), row.reason, *(row.values.get(key, "") for key in keys),
        )
        for row in rows
    ]  # fmt: skip
    write_rows(path, columns, table)


def importances(study: optuna.Study, space: Sequence[Dimension]) -> dict[str, float]:
    """Share of each key in what tells good trials from bad ones (PED-ANOVA, arXiv 2304.10255); empty where too
    few finished or all are alike."""
    import warnings

    import optuna

    done = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if len(done) < ENOUGH or len({t.value for t in done}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
            params=[d.key for d in space if all(d.key in t.params for t in done)],
        )
    return {key: float(value) for key, value in found.items() if math.isfinite(value)}


def no_plot_line(ended: int) -> str:
    """Why there is no importance plot, where so many trials of the coarse stage ended.

    >>> no_plot_line(5)
    'No importance plot: 5 of the 8 trials that it takes ended; --pruner none stops none of them early.'
    >>> no_plot_line(9)
    'No importance plot: 9 trials ended, with figures too much alike to tell keys apart.'
    """
    if ended >= ENOUGH:
        return f"No importance plot: {ended} trials ended, with figures too much alike to tell keys apart."
    return (
        f"No importance plot: {ended} of the {ENOUGH} trials that it takes ended; --pruner none stops none of them "
        "early."
    )


def importance_plot(shares: dict[str, float]) -> bytes:
    """A bar a key, the most important on top, as PNG."""
    from matplotlib.figure import Figure

    from finetune.report.figures import BLUE, as_png

    names = sorted(shares, key=lambda key: shares[key], reverse=True)
    figure = Figure(figsize=(6.4, 1.2 + 0.35 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.barh([_leaf(n) for n in names], [100 * shares[n] for n in names], color=BLUE)
    axes.invert_yaxis()
    axes.set(xlabel="share in what tells good trials from bad, %", title="which keys mattered")
    axes.spines[["top", "right"]].set_visible(False)
    return as_png(figure)


def brief(value: Any) -> str:
    """
    >>> brief(0.00123456), brief(True), brief("light")
    ('0.00123', 'True', 'light')
    """
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
