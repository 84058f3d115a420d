"""What single values of a recipe may be written as: times, learning rates, paths."""

from __future__ import annotations

import contextlib
from typing import Any


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
