"""The findings about a data set as one HTML page with thumbnails, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import io
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from PIL import Image

from finetune.data.threads import for_each
from finetune.errors import DataError

if TYPE_CHECKING:
    from finetune.audit.audit import Audit

SIDE = 128
"""Longest side of a thumbnail, pixels."""

MOST = 60
"""Entries shown of a kind; the JSON has all of them."""


def data_page(audit: Audit, threads: int = 1) -> str:
    """The page, UTF-8 text. Images that can no longer be decoded are shown by name alone."""
    import jinja2

    truths, bars = audit.truths, audit.truths.bars()
    groups = {"split": audit.cross_split, "class": audit.cross_class, "other": audit.mere_copies}
    shown = {i for kind in groups.values() for group in kind[:MOST] for i in group}
    shown |= {i for i, _, _ in audit.suspects[:MOST]} | set(audit.strangers[:MOST]) | set(audit.blank[:MOST])
    pictures = _pictures(audit, sorted(shown), threads)

    def card(index: int, **more: Any) -> dict[str, Any]:
        return {"name": audit.names[index], "label": truths.shown(truths.given(index)),
                "split": "" if audit.splits[index] == "all" else audit.splits[index],
                "picture": pictures.get(index), **more}  # fmt: skip

    scores = dict(audit.outliers)
    odd = dict(audit.formats.odd)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        files("finetune.report").joinpath("data_page.html.j2").read_text("utf-8")
    )
    return template.render(
        audit=audit.to_dict(), truths=truths, bars=bars, most=MOST, problems=audit.problems,
        groups={kind: [[card(i) for i in group] for group in found[:MOST]] for kind, found in groups.items()},
        totals={kind: len(found) for kind, found in groups.items()},
        suspects=[card(i, suggested=truths.shown(better), score=score)
                  for i, better, score in audit.suspects[:MOST]],
        strangers=[card(i, score=scores.get(i), kind=odd.get(i)) for i in audit.strangers[:MOST]],
        blank=[card(i) for i in audit.blank[:MOST]], unreadable=audit.unreadable[:MOST],
        largest=max(n for _, n in bars), told=None if audit.held_out is None else truths.told(audit.held_out),
    )  # fmt: skip


def _pictures(audit: Audit, indices: list[int], threads: int) -> dict[int, str]:
    found: dict[int, str] = {}

    def draw(place: int) -> None:
        index = indices[place]
        try:
            image = audit.images.load(index)
        except DataError:
            return
        small = image.copy()
        small.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        out = io.BytesIO()
        small.save(out, "JPEG", quality=80)
        found[index] = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")

    for_each(len(indices), draw, threads)
    return found
