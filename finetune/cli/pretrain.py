"""``finetune pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from finetune.cli import screen
from finetune.cli.live import Bar
from finetune.events import Listener


class _Screen(Listener):
    def __init__(self) -> None:
        self.bar = Bar()

    def on_message(self, text: str) -> None:
        screen.say(text)

    def on_step(self, row: dict[str, Any]) -> None:
        self.bar.step({**row, "epoch": int(row["epoch"]) + 1, "epochs": f"{row['epochs']:g}"})

    def on_epoch(self, row: dict[str, Any]) -> None:
        screen.say(
            f"epoch {row['epoch']}: {screen.percent(row['val_accuracy'])} on val at {row['val_size']} px, "
            f"{screen.duration(row['seconds'])} so far"
        )


@click.command()
@click.option(
    "--recipe",
    required=True,
    metavar="FILE",
    help="A pretraining recipe, for example recipes/pretrain/embedded.yaml.",
)
@click.option(
    "--data", metavar="DIR", help="Folder with train/<class>/* and val/<class>/*; default: the recipe's."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for state, weights, card and statistics."
)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def pretrain(recipe: str, data: str | None, out: Path | None, overrides: tuple[str, ...]) -> None:
    """Train a backbone from scratch on a large labelled folder, then use it like any other of the zoo.

    The same command goes on where a stopped or killed run was.
    """
    from finetune.cookbook import find_recipe
    from finetune.pretraining.finish import pretrain as train
    from finetune.pretraining.recipe import PretrainRecipe

    given = [f"data={data}"] if data else []
    given += [f"out={out}"] if out else []
    settings = PretrainRecipe.load(find_recipe(recipe), (*overrides, *given))
    listener = _Screen()
    try:
        result = train(settings, listener)
    finally:
        listener.bar.close()
    best = screen.percent(result["accuracy"][str(result["size"])])
    screen.say(
        f"{best} top-1 on {result['val_images']:,} val images at {result['size']} px, "
        f"{screen.duration(result['seconds'])} of training."
    )
    screen.say_long(
        f"Next: FINETUNE_ZOO={Path(settings.out) / 'zoo.yaml'} finetune run --data DIR --backbone {settings.name}"
    )
