"""The error tree. Everything the user can cause is below FinetuneError; a traceback is a bug.

    FinetuneError            root: the command line catches only this, prints one message, exits 2
    ├── ConfigError          a recipe, an override or an argument is wrong
    ├── DataError            the images, labels or folders are wrong
    ├── ZooError             a backbone name, weight file or card is wrong
    ├── StrategyError        the strategy cannot be applied to this data or backbone
    ├── TrainingError        training cannot start or go on
    ├── ExportError          the checkpoint cannot be written in the asked format
    ├── RunError             a run folder is missing, incomplete or already exists
    ├── ProcessError         one of several processes ended; exits 1
    └── Interrupted          Ctrl-C or SIGTERM: state was saved; exits 130

Messages have one shape (scikit-learn's): ``X must be CONSTRAINT. Got VALUE instead.`` and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FinetuneError(Exception):
    """Root of everything a user can cause or mend."""

    exit_code = 2
    told = False
    """Whether another process of the same training says it."""


class ConfigError(FinetuneError):
    """A recipe, an override or an argument is wrong."""


class DataError(FinetuneError):
    """The images, labels or folders are wrong."""


class ZooError(FinetuneError):
    """A backbone name, a weight file or a card is wrong."""


class StrategyError(FinetuneError):
    """The strategy cannot be applied to this data or backbone."""


class TrainingError(FinetuneError):
    """Training cannot start or go on."""


class ExportError(FinetuneError):
    """The checkpoint cannot be written in the asked format."""


class RunError(FinetuneError):
    """A run folder is missing, incomplete or already exists."""


class ProcessError(FinetuneError):
    """One of the processes of a training ended before its time."""

    exit_code = 1


class Interrupted(FinetuneError):
    """The user stopped the run; its state was saved first."""

    exit_code = 130


def must(subject: str, constraint: str, got: object, remedy: str = "") -> str:
    """The one message shape.

    >>> must("epochs", "an int > 0", -1, "Try epochs=10.")
    'epochs must be an int > 0. Got -1 instead. Try epochs=10.'
    """
    return f"{subject} must be {constraint}. Got {got} instead.{' ' + remedy if remedy else ''}"


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known names closest to a mistyped one, best first.

    >>> nearest("epochz", ["epochs", "lr"])
    ['epochs']
    """
    return difflib.get_close_matches(name, list(dict.fromkeys(known)), n=limit, cutoff=0.6)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that ends a message about an unknown name; empty where nothing is near.

    >>> did_you_mean("epochz", ["epochs", "lr"])
    ' Did you mean "epochs"?'
    """
    names = nearest(name, known)
    quoted = " or ".join(f'"{n}"' for n in names)
    return f" Did you mean {quoted}?" if names else ""


def missing_extra(what: str, package: str, extra: str) -> str:
    """The message for an optional dependency that is not installed.

    >>> missing_extra("ONNX export", "onnx", "onnx")
    'ONNX export needs onnx. Run: pip install "finetune[onnx]"'
    """
    return f'{what} needs {package}. Run: pip install "finetune[{extra}]"'
