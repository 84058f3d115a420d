"""What single values of a recipe may be written as: times, learning rates, paths."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

from finetune.errors import did_you_mean

Part = Literal[
    "crop", "flip", "rotation", "translation", "shear", "perspective", "elastic", "brightness", "contrast",
    "saturation", "hue", "cast", "lighting", "blur", "noise", "erasing",
]  # fmt: skip
"""An operation of augmentation that can be asked for by itself."""
PARTS: tuple[str, ...] = get_args(Part)
Policy = Literal["none", "light", "standard", "strong", "trivial", "rand", "autoaugment", "rich"]
"""An augmentation policy."""
Crop = Literal["area", "short-side"]
"""How a policy crops: a share of the area, or a square of an image whose short side was scaled."""
CROPS: tuple[str, ...] = get_args(Crop)


def augmentation(value: Any) -> Any:
    """A policy's name as it is; a list of operations, or their names joined by ``+``, as a tuple.

    >>> augmentation("rich"), augmentation("crop+flip"), augmentation(["noise"])
    ('rich', ('crop', 'flip'), ('noise',))
    """
    policies: tuple[str, ...] = get_args(Policy)
    if value is None or value in policies:
        return value
    if isinstance(value, str) and ("+" in value or value in PARTS):
        value = value.split("+")
    listed = isinstance(value, list | tuple)
    if not listed:
        hint = _hint(value, policies) or _hint(value, PARTS)
        raise ValueError(f"must be one of {', '.join(policies)}, or a list of operations{hint}")
    if not value:
        raise ValueError("must name an operation or more; for no augmentation write none")
    wrong = [part for part in value if not isinstance(part, str) or part not in PARTS]
    if wrong:
        raise ValueError(f"must be a list of {', '.join(PARTS)}{_hint(wrong[0], PARTS)}")
    if len(set(value)) < len(value):
        raise ValueError("must name each operation once")
    return tuple(value)


def _hint(value: Any, known: Sequence[str]) -> str:
    hint = did_you_mean(value, known).strip().rstrip("?") if isinstance(value, str) else ""
    return f" ({hint}?)" if hint else ""


def seconds_of(value: Any) -> Any:
    """``90s``, ``10m`` and ``1.5h`` as seconds; everything else as it is.

    >>> seconds_of("10m"), seconds_of("1.5h"), seconds_of(30)
    (600.0, 5400.0, 30.0)
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    if isinstance(value, str) and value[-1:].lower() in units:
        with contextlib.suppress(ValueError):
            return float(value[:-1]) * units[value[-1].lower()]
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise ValueError("must be a time such as 90s, 10m or 1.5h") from None


def not_empty(value: Any) -> Any:
    """An empty text would be the current folder; it is a shell variable that was never set."""
    if value == "":
        raise ValueError("must name a folder, a table, an archive or shards")
    return value


def rate_or_auto(value: Any) -> Any:
    """A learning rate as a float, ``auto`` and None as they are; one message for everything else.

    >>> rate_or_auto("0.1"), rate_or_auto("auto")
    (0.1, 'auto')
    """
    if value is None or value == "auto":
        return value
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = None
    if number is None or not number < float("inf"):
        raise ValueError("must be a number greater than 0, or auto")
    if number <= 0:
        raise ValueError("must be greater than 0")
    if number > 1000:
        raise ValueError("must be less than or equal to 1000")
    return number
