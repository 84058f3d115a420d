"""timm and torchvision, imported without what is not needed here.

That is torch's compiler (``finetune.compiler``) and, in timm, wandb where that is installed (half a second), for a
function of its training scripts. There a stand-in stays, in timm alone, and loads wandb at the first use.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

from finetune.compiler import StandIn, remove_stand_ins, without_compiler


def import_timm() -> Any:
    """The module timm."""
    with without_compiler(), _without_wandb():
        return importlib.import_module("timm")


def import_torchvision_models() -> Any:
    """The module torchvision.models."""
    with without_compiler():
        return importlib.import_module("torchvision.models")


@contextlib.contextmanager
def _without_wandb() -> Iterator[None]:
    """Imports inside that find wandb get a stand-in; where there is none they find none, as always."""
    if "wandb" in sys.modules or importlib.util.find_spec("wandb") is None:
        yield
        return
    sys.modules["wandb"] = StandIn("wandb")
    try:
        yield
    finally:
        remove_stand_ins("wandb")
