"""``finetune data`` and ``finetune data check``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetune.cli import screen
from finetune.cli.app import LazyGroup

if TYPE_CHECKING:
    from finetune.audit.audit import Audit

_LAZY = {
    "check": ("finetune.cli.data:check", "Look for copies, leaks, wrong labels and strangers."),
    "preview": ("finetune.cli.preview:preview", "Draw originals beside augmented samples."),
}
_SHOWN = 5


@click.group(cls=LazyGroup, lazy=_LAZY)
def data() -> None:
    """Look at a data set before anything is trained on it."""


@click.command()
@click.argument("source", metavar="DIR")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--backbone", metavar="NAME", help="Whose features judge labels and strangers.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; everything else on stderr.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with thumbnails.")
@click.option("--fix", type=click.Path(path_type=Path), metavar="FILE",
              help="Write a cleaned list (CSV) for `finetune run --data FILE`.")  # fmt: skip
@click.option(
    "--drop-suspects", is_flag=True, help="With --fix: also leave out labels and numbers that look wrong."
)
@click.option("--quiet", is_flag=True, help="Say nothing but errors and what was asked for.")
def check(
    source: str, overrides: tuple[str, ...], backbone: str | None, as_json: bool, html: Path | None, fix: Path | None,
    drop_suspects: bool, quiet: bool,
) -> None:  # fmt: skip
    """Look for what is wrong with the images and labels in DIR (a folder or a table). No image is changed.

    Unreadable files; the same picture twice, re-encoded or resized, above all in two splits or two classes; groups
    in the file names that a split would divide; labels that the other images contradict; strangers; blank images;
    class names that look like one class. Of images with several labels or a number (data.task) the same: copies that
    differ in them, labels too many or too few, numbers far from what the other images say.
    """
    from finetune.cli.run import asked_for
    from finetune.errors import ConfigError, must

    if drop_suspects and fix is None:
        raise ConfigError(must("--drop-suspects", "given with --fix FILE", "alone"))
    if fix is not None and fix.suffix.lower() != ".csv":
        raise ConfigError(must("--fix", "a file that ends in .csv", repr(str(fix))))
    recipe = asked_for(overrides, data=source, backbone=backbone, recipe=None)
    silent = quiet or as_json

    from finetune.data import ahead

    ahead.begin(recipe.data)
    from finetune.audit.run import audit_recipe

    found = audit_recipe(recipe, step=lambda name: None if silent else click.echo(f"{name} ...", err=True))
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    elif not quiet:
        show(found)
    if html is not None:
        from finetune.data.threads import worker_count
        from finetune.files import atomic_write_text
        from finetune.report.data_page import data_page

        atomic_write_text(html, data_page(found, worker_count(recipe.data.workers)))
        click.echo(f"Wrote {html}", err=silent)
    if fix is not None:
        _fix(found, fix, drop_suspects, silent)


def _fix(found: Audit, target: Path, drop_suspects: bool, silent: bool) -> None:
    from finetune.audit.cleaned import as_csv, clean
    from finetune.files import atomic_write_text

    cleaned = clean(found, suspects=drop_suspects)
    atomic_write_text(target, as_csv(found, cleaned, target.parent))
    why = ", ".join(f"{n} {reason}" for reason, n in cleaned.reasons().items())
    left = f" Left out: {why}." if why else ""
    click.echo(f"Wrote {target}: {len(cleaned.kept):,} of {len(found.names):,} images.{left}", err=silent)
    grouped = " --group-by group" if found.groups else ""
    keys = "".join(f" {shlex.quote(key)}" for key in found.truths.overrides())
    click.echo(f"Next: finetune run --data {target}{grouped}{keys}", err=silent)


def show(found: Audit) -> None:
    """The findings on the screen: a line or a few for each kind."""
    facts, truths = found.to_dict(), found.truths
    screen.heading(truths.headline())
    screen.bullet(truths.span())
    widths, heights = facts["widths"], facts["heights"]
    screen.bullet(f"{widths[0]}x{heights[0]} to {widths[2]}x{heights[2]} pixels, median {widths[1]}x{heights[1]}; "
                  + ", ".join(f"{n:,} {kind}" for kind, n in facts["formats"].items())
                  + "; modes " + ", ".join(f"{n:,} {mode}" for mode, n in facts["modes"].items()) + ".")  # fmt: skip
    for note in found.notes:
        screen.bullet(note)
    screen.say()
    if not found.problems:
        screen.say("Nothing found that needs mending.")
        return
    screen.heading("Found")
    aside = ", ".join(f"{n:,} {kind}" for kind, n in found.aside.items())
    _list(
        "Unreadable" if list(found.aside) == ["unreadable"] else f"Set aside: {aside}",
        [f"{path}: {why}" for path, why in found.unreadable],
    )
    _groups(found, "The same picture in more than one split, so that the test flatters", found.cross_split)
    _groups(found, truths.contradiction, found.cross_class)
    _groups(found, "The same picture more than once", found.mere_copies)
    if found.groups is not None:
        leak = f"; {found.leaked_groups} of them lie in several splits" if found.leaked_groups else ""
        screen.bullet(
            f"Names show {found.groups.groups:,} groups whose images look alike (patients, tracks, films?){leak}. "
            f"Keep each on one side of a split: --group-by '{found.groups.pattern}'"
        )
    _list(truths.doubts, [f"{found.names[i]}: {truths.shown(truths.given(i))}, or {truths.shown(better)}? "
                          f"({truths.scored(score)})" for i, better, score in found.suspects])  # fmt: skip
    odd = dict(found.formats.odd)
    _list("Strangers", [found.names[i] + (f" (a {odd[i]})" if i in odd else "") for i in found.strangers])
    _list("Blank", facts["blank"])
    _list(truths.one_name, [f"{a}, {b}" for a, b in found.similar])
    _list(
        "Files of another kind than their name says",
        [f"{p} ({kind})" for p, kind in facts["misnamed"].items()],
    )
    screen.say_long("\nSee them: --html FILE. All of them: --json. A cleaned list: --fix FILE.csv")


def _groups(found: Audit, what: str, groups: tuple[tuple[int, ...], ...]) -> None:
    """Groups of copies, and how many of them are of the same bytes throughout."""
    number = {i: k for k, group in enumerate(found.exact) for i in group}
    same = sum(len({number.get(i, -1 - i) for i in group}) == 1 for group in groups)
    more = (
        f", of which {same:,} byte for byte"
        if 0 < same < len(groups)
        else ", all byte for byte"
        if same
        else ""
    )
    _list(what, [" = ".join(found.names[i] for i in group) for group in groups], more)


def _list(what: str, entries: list[str], more: str = "") -> None:
    if not entries:
        return
    screen.bullet(f"{what} ({len(entries):,}{more}):")
    for entry in entries[:_SHOWN]:
        screen.say(f"    {screen.printable(entry)}")
    if len(entries) > _SHOWN:
        screen.say(f"    and {len(entries) - _SHOWN:,} more")
