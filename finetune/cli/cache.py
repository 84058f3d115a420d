"""``finetune cache``: what is kept between runs, and how to be rid of it."""

from __future__ import annotations

import datetime
import json
import re

import click

from finetune.caches import KINDS
from finetune.cli import screen
from finetune.cli.app import LazyGroup

_LAZY = {
    "ls": ("finetune.cli.cache:ls", "What is kept, how large it is, when it was last of use."),
    "clear": ("finetune.cli.cache:clear", "Delete it; it is computed again when it is needed."),
}
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}


@click.group(cls=LazyGroup, lazy=_LAZY)
def cache() -> None:
    """Features, pixels and measured speeds, kept between runs; what is deleted is made again when needed."""


def size_text(size: float) -> str:
    """
    >>> size_text(999), size_text(1_234_567)
    ('999 B', '1.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _age(context: click.Context, parameter: click.Parameter, value: str | None) -> float:
    if value is None:
        return 0.0
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", value.strip())
    if parts is None:
        raise click.BadParameter(f"must be a time such as 12h, 30d or 2w. Got {value!r} instead.")
    return float(parts[1]) * _UNITS[parts[2]]


_KIND = click.argument(
    "kinds", nargs=-1, type=click.Choice(list(KINDS)), metavar="[features|pixels|formats]..."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.command()
@_KIND
@_JSON
def ls(kinds: tuple[str, ...], as_json: bool) -> None:
    """What is kept, how large it is, when it was last of use."""
    from finetune.caches import entries
    from finetune.data.pixel_cache import LIMIT, size_limit
    from finetune.runtime import cache_dir

    found = entries(kinds or tuple(KINDS))
    if as_json:
        tree = {"folder": str(cache_dir()), "pixels_limit": size_limit(), "entries": [vars(e) for e in found]}
        click.echo(json.dumps(tree, indent=2))
        return
    screen.say(f"In {cache_dir()}; pixels up to {size_text(size_limit())} ({LIMIT}).")
    for kind in kinds or KINDS:
        mine = [entry for entry in found if entry.kind == kind]
        screen.heading(f"{kind}: {size_text(sum(e.bytes for e in mine))}, {KINDS[kind]}")
        for entry in mine:
            day = datetime.datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
            screen.bullet(
                f"{entry.name[:12]}  {size_text(entry.bytes)} in {entry.files} files, last used {day}"
            )


@click.command()
@_KIND
@click.option("--older", callback=_age, metavar="TIME", help="Only what was not of use for 12h, 30d, 2w.")
@_JSON
def clear(kinds: tuple[str, ...], older: float, as_json: bool) -> None:
    """Delete what is kept, without asking: it is made again when it is needed."""
    from finetune.caches import clear as empty

    files, freed = empty(kinds or tuple(KINDS), older)
    if as_json:
        click.echo(json.dumps({"files": files, "bytes": freed}))
    else:
        screen.say(f"Deleted {files} files, {size_text(freed)} freed." if files else "Nothing to delete.")
