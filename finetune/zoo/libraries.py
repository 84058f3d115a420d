"""timm and torchvision, imported without torch's compiler, which neither needs for what is done here.

One decorator in each makes ``import timm`` load all of ``torch._dynamo`` (and sympy with it): 2.3 of the 5.8
CPU seconds that the two and torch cost together. While they are imported, a stand-in answers for it, whose
decorator loads the compiler when the decorated function is first called, as torch's own lazy decorators do.
Whatever else is asked of the stand-in loads the real compiler on the spot, and afterwards it is gone.

timm also imports wandb where that is installed (half a second), for a function of its training scripts. There a
stand-in stays, in timm alone, and loads wandb at the first use.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_NAMES = (_COMPILER, f"{_COMPILER}.utils")


def import_timm() -> Any:
    """The module timm."""
    with without_compiler(), _without_wandb():
        return importlib.import_module("timm")


def import_torchvision_models() -> Any:
    """The module torchvision.models."""
    with without_compiler():
        return importlib.import_module("torchvision.models")


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Imports inside do not load ``torch._dynamo`` unless they use more of it than its decorator."""
    importlib.import_module("torch")
    if any(name in sys.modules for name in _NAMES):
        yield
        return
    stand_ins = {name: _StandIn(name) for name in _NAMES}
    stand_ins[_COMPILER].disable = _disable
    stand_ins[_COMPILER].utils = stand_ins[f"{_COMPILER}.utils"]
    stand_ins[f"{_COMPILER}.utils"].is_compile_supported = _is_compile_supported
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        _remove_stand_ins()


@contextlib.contextmanager
def _without_wandb() -> Iterator[None]:
    """Imports inside that find wandb get a stand-in; where there is none they find none, as always."""
    if "wandb" in sys.modules or importlib.util.find_spec("wandb") is None:
        yield
        return
    sys.modules["wandb"] = _StandIn("wandb")
    try:
        yield
    finally:
        _remove_stand_ins()


class _StandIn(ModuleType):
    """A module whose missing attributes are those of the real one, which is then imported."""

    __path__: list[str] = []  # noqa: RUF012 - what makes a module a package

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        _remove_stand_ins()
        return getattr(importlib.import_module(self.__name__), attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        self.__dict__[attribute] = value


def _remove_stand_ins() -> None:
    for name in (*_NAMES, "wandb"):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _disable(fn: Callable[..., Any] | None = None, recursive: bool = True, **options: Any) -> Any:
    if fn is None:
        return functools.partial(_disable, recursive=recursive, **options)

    @functools.cache
    def real() -> Callable[..., Any]:
        disabled: Callable[..., Any] = importlib.import_module(_COMPILER).disable(fn, recursive, **options)
        return disabled

    @functools.wraps(fn)
    def first_call_loads(*args: Any, **kwargs: Any) -> Any:
        return real()(*args, **kwargs)

    return first_call_loads


def _is_compile_supported(device_type: str) -> bool:
    return bool(importlib.import_module(f"{_COMPILER}.utils").is_compile_supported(device_type))
