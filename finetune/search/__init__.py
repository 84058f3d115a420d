"""`finetune sweep`: trials of a recipe with other values, coarse over the whole space, then fine around the best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.search.driver import SweepResult, sweep

__all__ = ["SweepResult", "sweep"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'finetune.search' has no attribute {name!r}")
    from finetune.search import driver

    return getattr(driver, name)
