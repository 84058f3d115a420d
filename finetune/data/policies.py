"""Augmentation policies by name: registered ones, operations joined by ``+``, and how either crops.

``crop+flip+rotation`` is these operations alone, as strong as in ``rich``; ``standard/short-side`` is a policy that
crops by the short side.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from typing import Any

from finetune.errors import ConfigError, did_you_mean
from finetune.recipe_values import CROPS, PARTS
from finetune.registry import Entry, Registry

FAMILY_OF: dict[str, str] = {
    "crop": "crop",
    "flip": "flip",
    **dict.fromkeys(("rotation", "translation", "shear", "perspective", "elastic"), "rotation"),
    **dict.fromkeys(("brightness", "contrast", "saturation", "hue", "cast", "lighting"), "colour"),
}
"""What an operation is left out with; blur, noise and erasing belong to no family."""


def policy_name(augment: str | Sequence[str], crop: str = CROPS[0]) -> str:
    """One name of a policy, or of a list of operations, and of the way it crops.

    >>> policy_name("standard"), policy_name(["flip", "noise"]), policy_name("light", "short-side")
    ('standard', 'flip+noise', 'light/short-side')
    """
    name = augment if isinstance(augment, str) else "+".join(augment)
    return name if crop == CROPS[0] or name.endswith(f"/{crop}") else f"{name}/{crop}"


def joined_parts(value: Any) -> Any:
    """A list of names as one name; everything else as it is.

    >>> joined_parts(["crop", "flip"]), joined_parts("rich")
    ('crop+flip', 'rich')
    """
    listed = isinstance(value, list | tuple) and value and all(isinstance(part, str) for part in value)
    return "+".join(value) if listed else value


def unknown_parts(name: str) -> list[str]:
    """Those of the names joined by ``+`` that no operation has.

    >>> unknown_parts("crop+flp")
    ['flp']
    """
    return [part for part in name.split("+") if part not in PARTS]


def families_of(parts: Collection[str]) -> tuple[str, ...]:
    """The families of some operations, in the order of FAMILIES."""
    found = {FAMILY_OF.get(part) for part in parts}
    return tuple(family for family in ("flip", "crop", "colour", "rotation") if family in found)


class Policies(Registry[type]):
    """A registry of policies that also knows those which are put together from operations.

    Args:
        kind: what the registry holds.
        composed: ``module:Class`` of a policy with the attribute ``parts``, to be told which operations.
    """

    def __init__(self, kind: str, composed: str) -> None:
        super().__init__(kind)
        self._composed = composed
        self._made: dict[str, type] = {}

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        base, slash, crop = name.partition("/")
        return (super().__contains__(base) or not unknown_parts(base)) and (not slash or crop in CROPS)

    def entry(self, name: str) -> Entry:
        """Of either; raises ConfigError with the nearest names."""
        base, slash, crop = name.partition("/")
        if slash and crop not in CROPS:
            raise ConfigError(f"A policy crops by {' or '.join(CROPS)}. Got {crop!r} instead.")
        if super().__contains__(base):
            return super().entry(base)
        wrong = unknown_parts(base)
        if not wrong:
            return Entry(base, self._composed, "these operations alone, mildly")
        if "+" in base:
            raise ConfigError(
                f"An operation of a policy must be one of {', '.join(PARTS)}. "
                f"Got {wrong[0]!r} instead.{did_you_mean(wrong[0], PARTS)}"
            )
        hint = did_you_mean(base, self.names()) or did_you_mean(base, PARTS)
        raise ConfigError(
            f"{self.kind} must be one of {', '.join(self.names())}. Got {base!r} instead.{hint}"
        )

    def get(self, name: str) -> type:
        """Import, and put together where the name is no registered one; raises ConfigError for an unknown name."""
        if name in self._made:
            return self._made[name]
        entry = self.entry(name)
        module, _, attribute = entry.target.partition(":")
        kind: Any = getattr(importlib.import_module(module), attribute)
        crop = name.partition("/")[2]
        changes: dict[str, Any] = {}
        if entry.target == self._composed:
            parts = tuple(part for part in PARTS if part in entry.name.split("+"))
            changes = {"parts": parts, "families": families_of(parts)}
        if crop and crop != CROPS[0] and hasattr(kind, "crop_by"):  # one from elsewhere crops as it likes
            changes["crop_by"] = crop
        if not changes:
            return kind  # type: ignore[no-any-return]
        named = "+".join(changes["parts"]) if "parts" in changes else kind.__name__
        made = type(policy_name(named, changes.get("crop_by", CROPS[0])), (kind,), changes)
        return self._made.setdefault(name, made)
