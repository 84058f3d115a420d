"""``finetune ensemble``: finished runs that answer together, soups of their weights, and bags of one recipe."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from finetune.cli import screen

if TYPE_CHECKING:
    from finetune.api import Run
    from finetune.events import Listener


@click.command()
@click.argument("runs", nargs=-1, metavar="RUN RUN... | KEY=VALUE...")
@click.option("--greedy", is_flag=True, help="Choose members and weights on validation images (Caruana).")
@click.option(
    "--soup",
    type=click.Choice(["uniform", "greedy"]),
    help="Average the weights instead of the answers: one network, as quick as any of the runs.",
)
@click.option("--bag", type=int, metavar="N", help="Train N runs on resamples of the images in --data.")
@click.option(
    "--data", metavar="DIR", help="Test on these labelled images; with --bag: train and test on them."
)
@click.option(
    "--select", metavar="DIR", help="Choose on these labelled images instead of the validation split."
)
@click.option("--strategy", metavar="NAME", help="Of --bag, as for `finetune run`.")
@click.option("--backbone", metavar="NAME", help="Of --bag, as for `finetune run`.")
@click.option("--recipe", metavar="FILE", help="Of --bag, as for `finetune run`.")
@click.option("--seed", type=int, metavar="N", help="Of --bag. Default 0.")
@click.option("--out", metavar="DIR", help="The folder to write; default: a new one in runs/.")
@click.option("--quiet", is_flag=True, help="Print the result only.")
def ensemble(
    runs: tuple[str, ...],
    greedy: bool,
    soup: str | None,
    bag: int | None,
    data: str | None,
    select: str | None,
    out: str | None,
    quiet: bool,
    **recipe: Any,
) -> None:
    """Put finished RUNs of the same task and classes together: the mean of their probabilities, or of their numbers.

    The result is a folder that predict, evaluate and the Python API take like a run. It says the accuracy (or the
    task's own figures) of each member and of the whole, on test images that none of them saw.
    """
    _refuse_nonsense(greedy, soup, bag, select, recipe)
    from finetune.cli.story import Story

    with Story(quiet) as story:
        if bag is not None:
            from finetune.cli.run import asked_for
            from finetune.ensemble.bag import bag as bag_of

            asked = asked_for(runs, data=data, out=out, **recipe)
            found = bag_of(asked, bag, listener=_teller(story, quiet))
        else:
            from finetune.ensemble import build

            keys: dict[str, Any] = {"out": out, "data": data, "select": select, "listener": story}
            found = build.soup(runs, soup, **keys) if soup else build.ensemble(runs, greedy=greedy, **keys)  # type: ignore[arg-type]
    _show(found)


def _refuse_nonsense(
    greedy: bool, soup: str | None, bag: int | None, select: str | None, recipe: dict[str, Any]
) -> None:
    from finetune.errors import ConfigError, must

    asked = [
        name for name, value in (("--greedy", greedy), ("--soup", soup), ("--bag", bag is not None)) if value
    ]
    if len(asked) > 1:
        raise ConfigError(
            must(" and ".join(asked), "given one at a time", f"{len(asked)} of them",
                 "A greedy soup is --soup greedy." if "--soup" in asked else "")
        )  # fmt: skip
    if select is not None and not (greedy or soup == "greedy"):
        raise ConfigError(
            must("--select", "given with --greedy or --soup greedy, which choose", repr(select))
        )
    training = [f"--{key}" for key, value in recipe.items() if value is not None]
    if bag is None and training:
        raise ConfigError(must(", ".join(training), "given with --bag, which trains", "a value"))


def _show(found: Run) -> None:
    """Each member, then the whole."""
    from finetune.cli.result import show_scores

    members: list[Any] = next(
        (found.folder.read_json(name)["members"] for name in ("ensemble.json", "soup.json")
         if (found.path / name).is_file()), []
    )  # fmt: skip
    from finetune.evaluation.scores import main_figure

    metric, _ = main_figure(found.result["test"])
    rows = []
    for member in members:
        share = f"{member['weight']:.2f}" if "weight" in member else "yes" if member["taken"] else "no"
        rows.append((member["run"], share, *_figures(metric, member)))
    screen.show(screen.table(("run", "share", "test", "95% interval"), rows, right=(1, 2), shrink=0))
    screen.say()
    if (found.path / "bag.json").is_file():
        facts = found.folder.read_json("bag.json")
        for title, key in (("The single run on all training images", "single"), ("Out of bag", "out_of_bag")):
            value, span = _figures(metric, facts[key])
            screen.say(f"{title}: {value} ({span})")
    show_scores(found.result["test"], "Test {} together")
    screen.say()
    screen.say_long(f"Everything is in {found.path}")


def _figures(metric: str, facts: dict[str, Any]) -> tuple[str, str]:
    """The main figure of one network, and its interval."""
    from finetune.evaluation.scores import in_figures

    def shown(value: float | None) -> str:
        return "-" if value is None or math.isnan(value) else in_figures(metric, value)

    low, high = facts["interval"]
    return shown(facts[metric]), f"{shown(low)} to {shown(high)}"


def _teller(story: Listener, quiet: bool) -> Listener:
    """Of the many runs of a bag only a line each and the progress are told."""
    from finetune.events import Listener

    class Teller(Listener):
        def on_message(self, text: str) -> None:
            if text.startswith(("Bag ", "The single run")) and not quiet:
                story.on_message(text)

        def on_step(self, row: dict[str, Any]) -> None:
            story.on_step(row)

        def on_progress(self, what: str, done: int, total: int) -> None:
            story.on_progress(what, done, total)

    return Teller()
