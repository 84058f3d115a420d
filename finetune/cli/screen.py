"""What the commands print with: one rich console a stream, plain text where nobody looks."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from unicodedata import category

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_WIDEST = 100  # columns; longer lines are hard to read even where they fit


def console() -> Console:
    """A console on the present stdout: colours on a terminal, plain text into a file or pipe."""
    from rich.console import Console

    found = Console(highlight=False, soft_wrap=False, emoji=False)
    if found.width > _WIDEST:
        found.width = _WIDEST
    return found


def is_terminal() -> bool:
    """Whether somebody watches stdout."""
    return sys.stdout.isatty()


def printable(text: str, lines: bool = False) -> str:
    """Control characters, and what no encoding can write, as escapes: a file name may hold any. ``lines``: new lines
    stay.

    >>> printable("a\\nb\\x1b[31m.png"), printable("a\\nb", lines=True)
    ('a\\\\nb\\\\x1b[31m.png', 'a\\nb')
    """
    if text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if category(c) in _ODD and not (lines and c == "\n") else c for c in text)


_ODD = ("Cc", "Cs", "Zl", "Zp")


def say(text: str = "", style: str | None = None) -> None:
    """A line of text, wrapped at words; markup is not read, so that any file name is safe."""
    console().print(printable(text, lines=True), style=style, markup=False)


def say_long(text: str, style: str | None = None) -> None:
    """A line that is never wrapped: a path or a command to copy."""
    console().print(printable(text, lines=True), style=style, markup=False, soft_wrap=True)


def show(item: RenderableType) -> None:
    """A table or any other rich renderable."""
    console().print(item)


def bullet(text: str) -> None:
    """A sentence of a list, wrapped beside its mark."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_row("·", Text(printable(text, lines=True)))
    console().print(Padding(grid, (0, 0)))


def heading(text: str) -> None:
    """An empty line and a title."""
    console().print()
    console().print(printable(text, lines=True), style="bold", markup=False)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Sequence[int] = (),
    shrink: int | Sequence[int] | None = None,
) -> RenderableType:
    """A calm table: no frame, columns in ``right`` aligned right, ``shrink`` the one or ones that give way."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold", show_edge=False)
    texts = [[cell if isinstance(cell, Text) else Text(printable(str(cell))) for cell in row] for row in rows]
    for i, name in enumerate(columns):
        yields = shrink is None or i == shrink or (not isinstance(shrink, int) and i in shrink)
        widest = max([len(name), *(row[i].cell_len for row in texts)])
        found.add_column(
            name,
            justify="right" if i in right else "left",
            no_wrap=not yields,
            overflow="fold",
            min_width=len(name) if yields else widest,
        )
    for row in texts:
        found.add_row(*row)
    return found


def percent(value: float, digits: int = 1) -> str:
    """
    >>> percent(0.8349)
    '83.5%'
    """
    return "-" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}%"


def count(value: float) -> str:
    """Large counts as people say them.

    >>> count(950), count(12_345), count(4_912_345)
    ('950', '12.3 k', '4.9 M')
    """
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = 1e3 if unit == "k" else limit
            return f"{value / scale:.1f} {unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """
    >>> duration(4.2), duration(75), duration(3725)
    ('4 s', '1 min 15 s', '1 h 02 min')
    """
    if not math.isfinite(seconds):
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
