"""A table of named things whose code is imported only when one is used."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from finetune.errors import ConfigError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One line of a registry: where the object lives and one line about it."""

    name: str
    target: str
    summary: str


class Registry(Generic[T]):
    """Names to lazily imported objects; listing never imports the targets.

    >>> kinds = Registry("ordered dict")
    >>> kinds.add("od", "collections:OrderedDict", "remembers order")
    >>> kinds.names()
    ['od']
    >>> kinds.get("od")()
    OrderedDict()

    Third parties add entries through the entry-point group ``finetune.plugins`` with the name
    ``KIND.NAME`` (for example ``strategy.mine = mypackage.mine:Mine``).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        self._plugins_loaded = False

    def add(self, name: str, target: str, summary: str) -> None:
        """Register ``module:Object``; a second entry of the same name raises ValueError."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = Entry(name, target, summary)

    def names(self) -> list[str]:
        """All names in the order they were added."""
        self._load_plugins()
        return list(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        self._load_plugins()
        return iter(self._entries.values())

    def __contains__(self, name: object) -> bool:
        self._load_plugins()
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """The entry of that name; raises ConfigError with the nearest names."""
        self._load_plugins()
        if name not in self._entries:
            hint = did_you_mean(name, self._entries)
            raise ConfigError(
                f"{self.kind} must be one of {', '.join(self._entries)}. Got {name!r} instead.{hint}"
            )
        return self._entries[name]

    def get(self, name: str) -> T:
        """Import and return the object; raises ConfigError for an unknown name."""
        module, _, attribute = self.entry(name).target.partition(":")
        found: Any = getattr(importlib.import_module(module), attribute)
        return found  # type: ignore[no-any-return]

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        prefix = f"{self.kind}."
        for point in entry_points(group="finetune.plugins"):
            if point.name.startswith(prefix):
                self.add(point.name.removeprefix(prefix), point.value, f"plugin {point.value}")
