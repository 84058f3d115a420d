"""``finetune zoo ls | show``."""

from __future__ import annotations

import json

import click

from finetune.cli import screen
from finetune.cli.app import LazyGroup

_LAZY = {
    "ls": ("finetune.cli.zoo:ls", "The curated backbones, smallest first."),
    "show": ("finetune.cli.zoo:show", "Everything known about one backbone."),
}


@click.group(cls=LazyGroup, lazy=_LAZY)
def zoo() -> None:
    """The pretrained backbones. Any other timm, torchvision or hf-hub: name works too."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> None:
    """The curated backbones, smallest first."""
    from finetune.zoo.zoo import load_zoo

    cards = sorted(load_zoo().values(), key=lambda c: (c.macs is None, c.macs or 0, c.name))
    if as_json:
        click.echo(json.dumps([card.model_dump(mode="json") for card in cards], indent=2))
        return
    rows = [
        [
            card.name,
            _figure(card.parameters),
            _figure(card.macs),
            card.size,
            "-" if card.accuracy is None else f"{card.accuracy:.1f}",
            card.licence,
            card.source_dataset,
        ]
        for card in cards
    ]
    columns = ["backbone", "M params", "G MACs", "px", "top-1", "licence", "trained on"]
    if screen.console().width < 100:  # the last column is the one that `show` may tell
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    screen.show(screen.table(columns, rows, right=(1, 2, 3, 4)))
    screen.say("\nAny other timm or torchvision name, hf-hub:OWNER/NAME or weight file works too.")
    screen.say("More about one: finetune zoo show NAME")


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Everything known about the backbone NAME."""
    from finetune.zoo.zoo import card

    found = card(name)
    facts = found.model_dump(mode="json")
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    units = {"parameters": " M", "macs": " G", "accuracy": " %", "size": " px", "accuracy_at": " px"}
    rows = [
        (key.replace("_", " "), f"{_plain(value)}{units.get(key, '')}")
        for key, value in facts.items()
        if value not in (None, "", {}, [])
    ]
    screen.show(screen.table(("what", "value"), rows, shrink=1))
    screen.say_long(f"\nUse it: finetune run --data DIR --backbone {name}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{k}={_plain(v)}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
