"""Libraries without torch's compiler, which nothing needs that is not compiled.

Decorators of timm, torchvision and torch's optimizers make a first ``import timm``, a first optimizer step, a first
colour operation load all of ``torch._dynamo`` (and sympy with it): over a third of the CPU seconds that torch, timm and
torchvision cost together. Inside ``without_compiler`` a stand-in answers for it. Its ``disable`` leaves functions as
they are for as long as the compiler is not there to trace them, ``graph_break`` has nothing to break; whatever else is
asked of it loads the real one on the spot, and afterwards the stand-in is gone.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
_NAMES = (COMPILER, f"{COMPILER}.utils")


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """What runs inside does not load ``torch._dynamo`` unless it uses more of it than its decorator.

    Also a decorator. Costs microseconds, so that it may be put around a step.
    """
    importlib.import_module("torch")
    if any(name in sys.modules for name in _NAMES):
        yield
        return
    names = dict(zip(_NAMES, map(StandIn, _NAMES), strict=True))
    made = names[COMPILER]
    made.disable, made.graph_break, made.utils = _disable, _graph_break, names[f"{COMPILER}.utils"]
    made.utils.is_compile_supported = _is_compile_supported
    sys.modules.update(names)
    try:
        yield
    finally:
        remove_stand_ins(*_NAMES)


class StandIn(ModuleType):
    """A module whose missing attributes are those of the real one, which is then imported."""

    __path__: list[str] = []  # noqa: RUF012 - what makes a module a package

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        remove_stand_ins(*(_NAMES if self.__name__ in _NAMES else (self.__name__,)))
        return getattr(importlib.import_module(self.__name__), attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        self.__dict__[attribute] = value


def remove_stand_ins(*names: str) -> None:
    """Let the next import of these modules find the real ones."""
    for name in names:
        if isinstance(sys.modules.get(name), StandIn):
            del sys.modules[name]


def _loaded() -> bool:
    there = sys.modules.get(COMPILER)
    return there is not None and not isinstance(there, StandIn)


def _disable(fn: Callable[..., Any] | None = None, recursive: bool = True, **options: Any) -> Any:
    if fn is None:
        return functools.partial(_disable, recursive=recursive, **options)

    @functools.cache
    def real() -> Callable[..., Any]:
        disabled: Callable[..., Any] = importlib.import_module(COMPILER).disable(fn, recursive, **options)
        return disabled

    @functools.wraps(fn)
    def untraced(*args: Any, **kwargs: Any) -> Any:
        return real()(*args, **kwargs) if _loaded() else fn(*args, **kwargs)

    return untraced


def _graph_break(msg: str = "") -> None:
    """Nothing traces."""


def _is_compile_supported(device_type: str) -> bool:
    return bool(importlib.import_module(f"{COMPILER}.utils").is_compile_supported(device_type))
