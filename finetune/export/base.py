"""What an export format is: it writes, and then proves that what it wrote answers as the checkpoint does."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from pathlib import Path

import torch

from finetune.errors import ExportError
from finetune.zoo.backbone import Backbone

TOLERANCE = 1e-4
"""Largest accepted difference of a logit, relative to the largest logit."""


class Export(ABC):
    """One format."""

    @abstractmethod
    def write(self, backbone: Backbone, classes: tuple[str, ...], out: Path) -> None:
        """Write to the new folder ``out``. Raises ExportError where this network cannot be written so."""

    @abstractmethod
    def load(self, out: Path) -> torch.nn.Module:
        """Read it back the way its future reader will: a module from (N, 3, S, S) to (N, K) logits."""

    @abstractmethod
    def how(self, out: Path) -> str:
        """The line of code that reads it."""

    def verify(self, backbone: Backbone, out: Path) -> float:
        """Largest relative difference of a logit on random images. Raises ExportError above TOLERANCE."""
        generator = torch.Generator().manual_seed(0)
        size = backbone.preprocessing.size
        x = torch.randn(4, 3, size, size, generator=generator)
        on_cpu = copy.deepcopy(backbone).cpu().eval()  # the caller's own stays where it is
        with torch.inference_mode():
            expected = on_cpu(x)
            got = self.load(out).eval()(x)
        if got.shape != expected.shape:
            raise ExportError(
                f"The exported network answers with shape {tuple(got.shape)}, not {tuple(expected.shape)}."
            )
        error = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
        if not error <= TOLERANCE:
            raise ExportError(
                f"The exported network's answers must equal the checkpoint's within {TOLERANCE:g}. "
                f"Got a difference of {error:.2g} instead. Please report it with `finetune doctor`."
            )
        return error
