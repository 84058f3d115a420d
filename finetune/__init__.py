"""Transfer learning for images: look at the data, decide, explain, train fast, prove the result, export it.

>>> import finetune
>>> run = finetune.run({"data": {"path": "flowers"}})  # doctest: +SKIP
>>> run.result["test"]["accuracy"]  # doctest: +SKIP
0.93

The public names are imported when first used, so that ``import finetune`` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from finetune.version import __version__

if TYPE_CHECKING:
    from finetune.api import Run, advise, open_run, resume, run
    from finetune.classifier import Classifier
    from finetune.errors import FinetuneError
    from finetune.events import Listener
    from finetune.recipe import Recipe
    from finetune.zoo.create import create_backbone

_HOMES = {
    "Classifier": "finetune.classifier",
    "FinetuneError": "finetune.errors",
    "Listener": "finetune.events",
    "Recipe": "finetune.recipe",
    "Run": "finetune.api",
    "advise": "finetune.api",
    "create_backbone": "finetune.zoo.create",
    "open_run": "finetune.api",
    "resume": "finetune.api",
    "run": "finetune.api",
}

__all__ = [
    "Classifier",
    "FinetuneError",
    "Listener",
    "Recipe",
    "Run",
    "__version__",
    "advise",
    "create_backbone",
    "open_run",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
