"""The recipe of a pretraining run: architecture, data, schedule of sizes and learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from finetune.errors import ConfigError
from finetune.recipe import apply_overrides, problems_of, read_yaml


class PretrainRecipe(BaseModel):
    """Everything ``finetune pretrain`` needs. Unknown keys are errors, as in a Recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    name: str
    """Name of the card that is written."""
    data: str
    """Folder with train/<class>/* and val/<class>/*."""
    out: str
    """Folder for state, weights, card and statistics. A killed run goes on from here."""
    arch: str
    """timm architecture."""
    args: dict[str, Any] = {}
    """Keyword arguments of timm.create_model."""
    store_size: int = Field(64, ge=8)
    """Images are decoded once to this square size (pixels) and kept as uint8."""
    sizes: tuple[tuple[float, int], ...] = ((0.0, 48), (0.4, 64))
    """Progressive resizing: (share of the training done, side in pixels), ascending."""
    test_sizes: tuple[int, ...] = (64, 80, 96, 112, 128)
    """Sides tried at the end on val; the best becomes the card's. Random crops enlarge objects in
    training, so the best test size lies above the last training size (arXiv 1906.06423)."""
    epochs: float = Field(gt=0)
    """Passes over the training images. May be changed between two legs of a run before decay begins."""
    batch_size: int = Field(128, ge=2)
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    """sgd is Nesterov momentum 0.9; muon moves the hidden kernels by orthogonal steps, the rest by sgd."""
    lr: float = Field(gt=0)
    """Peak learning rate at this batch size; of the hidden kernels where the optimizer is muon."""
    rest_lr: float = Field(0.2, gt=0)
    """Peak learning rate of what muon leaves to sgd: norms, biases, first kernel, classifier."""
    source_lr: float | None = Field(None, gt=0)
    """The SGD learning rate that the card states for finetuning to take a part of; None is ``lr``."""
    warmup: float = Field(0.04, ge=0, lt=1)
    """Share of the steps spent in linear warm-up."""
    decay_from: float = Field(0.5, gt=0, le=1)
    """Share of the steps after which the LR falls linearly to zero (a trapezoid, arXiv 2405.18392):
    until then, a run can be lengthened without having been wrong."""
    weight_decay: float = Field(5e-5, ge=0)
    """Not applied to norms and biases."""
    muon_decay: float = Field(0.02, ge=0)
    """Decoupled weight decay of the kernels that muon moves: each step shrinks them by ``lr * muon_decay``."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    min_scale: float = Field(0.35, gt=0, le=1)
    """Smallest area of the random square crop."""
    clip_grad: float | None = Field(5.0, gt=0)
    """Largest global gradient norm."""
    ema: float = Field(0.998, gt=0, lt=1)
    """Decay per step of the averaged weights, which are the ones that ship."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    """auto measures a few steps of both."""
    device: str = "auto"
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    checkpoint_seconds: float = Field(120.0, gt=0)
    """Wall time between two saved states."""
    seed: int = Field(0, ge=0, lt=2**32)
    licence: str = "apache-2.0"
    source_dataset: str = ""
    """What the card names as source."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        starts = [start for start, _ in self.sizes]
        if not starts or starts[0] != 0 or starts != sorted(starts):
            raise ValueError("sizes must start at 0 and ascend")
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: tuple[str, ...] = ()) -> Self:
        """Read YAML and apply ``key=value`` overrides; raises ConfigError with every problem."""
        tree = apply_overrides(read_yaml(Path(path)), overrides, cls)
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(problems_of(cls, error, Path(path).name)) from None

    def size_at(self, progress: float) -> int:
        """Side of the training images (pixels) when this share of the steps is done.

        >>> PretrainRecipe(name="x", data="d", out="o", arch="a", epochs=1, lr=1).size_at(0.5)
        64
        """
        return next(size for start, size in reversed(self.sizes) if progress >= start)

    def lr_at(self, progress: float) -> float:
        """Trapezoid: linear warm-up, constant, linear decay to zero.

        >>> r = PretrainRecipe(name="x", data="d", out="o", arch="a", epochs=1, lr=1, warmup=0.1)
        >>> r.lr_at(0.05), r.lr_at(0.3), r.lr_at(0.75), r.lr_at(1.0)
        (0.5, 1.0, 0.5, 0.0)
        """
        rise = min(1.0, progress / self.warmup) if self.warmup else 1.0
        fall = 1.0 if self.decay_from >= 1 else min(1.0, (1 - progress) / (1 - self.decay_from))
        return self.lr * max(0.0, min(rise, fall))
