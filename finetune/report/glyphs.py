"""Names in every script: a picture takes further installed fonts for letters that its own lacks; where none has them a
class is called by its number.

matplotlib draws a box for a letter that its font lacks, and warns on the screen; it falls back to another font only
where that one is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

NOTE = "No installed font has the letters of some classes: their numbers stand for them, in the order of result.json."
_INVISIBLE = re.compile("[\\u200b-\\u200f\\u202a-\\u202e\\u2060-\\u2069\\ufe00-\\ufe0f\\ufeff]")
"""Joiners, marks of direction, variants: they leave no mark, and fonts need not have them."""
_BOXES = ("last resort", "lastresort", "notdef")
"""Fonts that have a box for every letter there is."""
_MOST = 4
"""Further fonts for one text."""


def written(names: Sequence[str]) -> list[str]:
    """The names without invisible letters, and for one that no installed font can write its number, from 1."""
    shown = [_INVISIBLE.sub("", name) for name in names]
    _, lost = _found(frozenset("".join(shown)), ("sans-serif",))
    return [str(i) if lost & set(name) else name for i, name in enumerate(shown, 1)]


def note(names: Sequence[str]) -> str | None:
    """What to say where some are numbers; None where all can be written."""
    numbers = (str(i) for i in range(1, len(names) + 1))
    changed = zip(written(names), numbers, names, strict=True)
    return NOTE if any(shown == number != name for shown, number, name in changed) else None


def complete(figure: Figure) -> None:
    """Give each text of a figure the fonts that it needs; a letter that none has becomes a question mark."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text().isascii():
            continue
        families, said = tuple(text.get_fontfamily()), _INVISIBLE.sub("", text.get_text())
        further, lost = _found(frozenset(said), families)
        if further:
            text.set_fontfamily([*families, *further])
        text.set_text("".join("?" if c in lost else c for c in said))


@lru_cache(maxsize=256)
def _found(letters: frozenset[str], families: tuple[str, ...]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Installed families beside ``families`` that have letters which these lack, and the letters that none has."""
    missing = {ord(c) for c in letters if c != "\n"}
    for family in families:
        missing -= _letters(font_manager.findfont(font_manager.FontProperties(family=[family])))
    further: list[str] = []
    while missing and len(further) < _MOST:
        name, has = max(
            ((name, missing & _letters(path)) for name, path in _upright()),
            key=lambda pair: len(pair[1]),
            default=("", frozenset()),
        )
        if not has:
            break
        further.append(name)
        missing -= has
    return tuple(further), frozenset(map(chr, missing))


def _upright() -> Iterable[tuple[str, str]]:
    """Name and path of each installed family, in its plain style where it has one."""
    fonts = sorted(
        font_manager.fontManager.ttflist,
        key=lambda f: (f.style != "normal", abs(_weight(f.weight) - 400), f.name),
    )
    found: dict[str, str] = {}
    for font in fonts:
        if not any(word in font.name.lower() for word in _BOXES):
            found.setdefault(font.name, font.fname)
    return found.items()


def _weight(value: int | str) -> int:
    return value if isinstance(value, int) else font_manager.weight_dict.get(value, 400)


@lru_cache(maxsize=1024)
def _letters(path: str) -> frozenset[int]:
    """Code points that a font file has; none where it cannot be read."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
