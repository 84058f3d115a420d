"""What keys about averages of weights do not go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.errors import must

_KEPT = ("ema", "swa", "snapshots")


def averaging_problems(settings: Mapping[str, Any], where: str) -> list[str]:
    """A line a problem. ``settings``: the keys that were set, of a recipe's ``train`` or a plan's phase;
    ``where`` comes before each key in the messages."""
    asked = [key for key in _KEPT if settings.get(key)]
    problems = []
    if len(asked) > 1:
        problems.append(
            must(
                " and ".join(where + key for key in asked),
                "given one at a time, for each decides which weights are kept",
                f"{len(asked)} of them",
                f"Leave out all but one, or set {where}ema=null.",
            )
        )
    late = [key for key in asked if key != "ema"]
    if late and settings.get("keep") == "best":
        problems.append(
            must(f"{where}keep", f"last where {where}{late[0]} says which epochs' weights are kept", "'best'")
        )
    for key in ("patience", "stop_at"):
        if late and settings.get(key):
            problems.append(
                must(f"{where}{key}", f"left out where {where}{late[0]} counts on all epochs", settings[key])
            )
    if "swa" in late and settings.get("schedule") == "plateau":
        problems.append(
            must(
                f"{where}schedule",
                f"one that is known beforehand where {where}swa takes it over",
                "'plateau'",
            )
        )
    if not isinstance(settings.get("snapshots"), int):
        return problems
    if settings.get("schedule", "cosine") != "cosine":
        got = repr(settings["schedule"])
        problems.append(must(f"{where}schedule", f"cosine where {where}snapshots restarts it", got))
    for key in ("blend", "safety_net"):
        if settings.get(key):
            off = "[]" if key == "blend" else "false"
            problems.append(
                must(
                    f"{where}{key}",
                    f"{off} with {where}snapshots, which leaves several networks",
                    settings[key],
                )
            )
    return problems
