"""What a tracker is: a run in somebody else's program that gets numbers, parameters and pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar


@dataclass
class Tracked:
    """The run that a tracker is opened for."""

    folder: Path
    """The run folder; its name is the run's name."""
    parameters: Mapping[str, object]
    """The recipe with dotted keys."""
    recipe: str
    """The recipe as YAML."""
    first: int | None = None
    """Where a resumed run goes on: the global step of the first row to come; None for a new run."""
    memory: dict[str, str] = field(default_factory=dict)
    """What the tracker remembers in the run folder: the id of its run. Filled in by ``__init__``."""


class Tracker(ABC):
    """One run in one program; made at the first row. Any method may raise: the caller warns and drops it."""

    package: ClassVar[str]
    """What must be installed to import it."""
    extra: ClassVar[str]
    """Of pyproject.toml."""
    replaces: ClassVar[bool] = False
    """Whether rows from ``first`` on replace those of the interrupted attempt; else each is sent only once."""

    @abstractmethod
    def __init__(self, run: Tracked) -> None:
        """Open the run, or the same one again, and hand over the parameters."""

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Finite numbers at a global step, which never falls."""

    @abstractmethod
    def picture(self, name: str, path: Path) -> None:
        """A PNG file."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """The run is over; ``finished`` is false where it was stopped or failed."""
