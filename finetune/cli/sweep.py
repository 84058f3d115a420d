"""``finetune sweep``."""

from __future__ import annotations

import math
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from finetune import start
from finetune.cli import screen

if TYPE_CHECKING:
    from finetune.search import SweepResult

_SHOWN = 5


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", metavar="DIR", help="Folder with one sub-folder per class.")
@click.option("--recipe", metavar="FILE", help="A recipe file, or a name of `finetune recipe ls`.")
@click.option("--strategy", metavar="NAME", help="auto (default) or one of `finetune strategy ls`.")
@click.option(
    "--backbone", metavar="NAME", help="Any name of `finetune zoo ls`, timm or torchvision; or a file."
)
@click.option(
    "--space", "spaces", multiple=True, metavar="FILE|KEY=SPEC",
    help="Keys to search: log(a,b), uniform(a,b), int(a,b), choice(a,b,...), ratio(a,b) of train.lr; "
    "or a YAML file of them. Default: what suits the strategy.",
)  # fmt: skip
@click.option(
    "--trials", type=int, default=20, show_default=True, metavar="N", help="Of both stages together."
)
@click.option("--time", "time_limit", metavar="TIME", help="Be done by then: 90s, 10m, 1.5h.")
@click.option(
    "--processes", type=int, default=1, show_default=True, metavar="P", help="That share the trials."
)
@click.option(
    "--metric", metavar="NAME",
    help="Of validation: log-loss (default) or accuracy; of labels log-loss or f1; of a number squared-error or r2.",
)  # fmt: skip
@click.option("--sampler", default="tpe", show_default=True, help="tpe, gp, random or grid.")
@click.option("--pruner", default="median", show_default=True, help="median, asha or none.")
@click.option("--storage", metavar="FILE", help="Where the trials are kept; .db for SQLite.")
@click.option("--out", metavar="DIR", help="Default: runs/sweep-DATA-STRATEGY.")
@click.option("--seed", type=int, metavar="N", help="Default 0.")
@click.option("--quiet", is_flag=True, help="Print the result only.")
def sweep(
    overrides: tuple[str, ...], spaces: tuple[str, ...], data: str | None, recipe: str | None, trials: int,
    time_limit: str | None, processes: int, metric: str | None, sampler: str, pruner: str, storage: str | None,
    out: str | None, quiet: bool, **keys: Any,
) -> None:  # fmt: skip
    """Try a recipe with other values, keep the best by validation, test it once.

    First the whole space on short schedules, then around the best on whole ones. The same command goes on where
    it was stopped. Recipe keys that are not searched can follow as KEY=VALUE.
    """
    from finetune.cli.run import asked_for
    from finetune.search.study import require_optuna

    require_optuna()
    resolved = asked_for(overrides, data=data, recipe=recipe, **keys)

    from finetune.cli.story import Story
    from finetune.search import sweep as search

    with Story(quiet) as story:
        found = search(
            resolved, space=spaces or None, trials=trials, time_limit=time_limit, processes=processes,
            metric=metric, sampler=sampler, pruner=pruner, storage=storage, out=out, listener=story,
            go_on=shlex.join(["finetune", *sys.argv[1:]]), began=start.began(),
        )  # fmt: skip
        show_sweep(found, story, quiet)


def show_sweep(found: SweepResult, story: Any, quiet: bool) -> None:
    """The best five with their intervals, the verdict, where everything is."""
    from finetune.search.board import brief, interval, tied_line
    from finetune.search.measure import named, shown

    def figure(score: float) -> str:
        return "-" if math.isnan(score) else shown(score, found.task)

    story.bar.close()
    rows = []
    for row in found.top[:_SHOWN]:
        low, high = (figure(end) for end in interval(row, found.images, found.task))
        values = (
            "default"
            if row.default
            else ", ".join(f"{key.rpartition('.')[2]}={brief(value)}" for key, value in row.values.items())
        )
        rows.append(
            (row.name, f"{row.log_loss:.3f}", figure(row.accuracy), f"{low} to {high}", row.epochs or "-", values)
        )  # fmt: skip
    if rows:
        screen.heading(f"The best on {found.images:,} validation images")
        columns = ("trial", found.task.loss_name, named(found.task), "95% interval", "epochs", "values")
        screen.show(screen.table(columns, rows, right=(1, 2, 3, 4), shrink=5))
        if (tied := tied_line(found.rows)) is not None:
            screen.say(tied)
        screen.say()
    screen.say(found.verdict)
    story.ending(found.run.path, found.run.result)
    if found.best is not None and not quiet:
        screen.say_long(
            f"\n{found.best.name} again: finetune run --recipe {shlex.quote(str(found.path / 'best.yaml'))}"
        )
        screen.say_long(f"All trials: {found.path / 'trials.csv'}")
