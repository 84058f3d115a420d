"""Finds what travels with the package: zoo.yaml, recipes and weights, in a wheel or a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _find(name: str) -> Path:
    # The wheel carries the top-level files inside the package; a checkout has them beside it.
    bundled = _PACKAGE / "_resources" / name
    return bundled if bundled.exists() else _PACKAGE.parent / name


def zoo_file() -> Path:
    """The registry of backbones."""
    return _find("zoo.yaml")


def recipes_dir() -> Path:
    """The shipped recipes."""
    return _find("recipes")


def weights_dir() -> Path:
    """The weights and source statistics shipped in the wheel."""
    return _PACKAGE / "weights"
