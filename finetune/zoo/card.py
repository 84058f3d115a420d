"""The ModelCard: weights, preprocessing, licence and published facts of one backbone, frozen together."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from finetune.data.preprocessing import Preprocessing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Source = Literal["timm", "torchvision", "hub", "local", "bundled"]


class ModelCard(BaseModel):
    """One backbone. A card binds weights to the preprocessing that they were trained with."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    """What the user types."""
    source: Source = "timm"
    """Where the weights come from."""
    library: Literal["timm", "torchvision"] = "timm"
    """Who builds the architecture; weights of torchvision are always built by torchvision."""
    arch: str
    """Name of the architecture in timm or torchvision."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the architecture."""
    weights: str | None = None
    """timm tag, torchvision's name (IMAGENET1K_V1), hub repository or file; None: the source's default."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Of the weight file; checked before it is read."""
    licence: str = "unknown"
    """Of the weights, as an SPDX identifier where there is one."""
    source_dataset: str = "unknown"
    """What the weights were trained on."""
    source_classes: int = Field(0, ge=0)
    """Classes of the pretrained head; 0: the weights come without a head."""
    accuracy: float | None = Field(None, ge=0, le=100)
    """Published top-1 on the source's validation set (ImageNet-1k where it has none), per cent."""
    accuracy_at: int | None = None
    """Image side at which that accuracy was measured, pixels."""
    parameters: float | None = None
    """Millions, head included."""
    macs: float | None = None
    """Billions of multiply-adds an image at ``size``."""
    source_lr: float = 0.1
    """Peak learning rate of the pretraining."""
    source_optimizer: Literal["sgd", "adamw"] = "sgd"
    """Family of the optimizer of the pretraining: a preconditioned one (Adam, LAMB) counts as adamw."""
    source_batch: int = Field(256, ge=1)
    """Images per step that source_lr belongs to."""
    size: int = Field(224, ge=16, le=2048)
    """Side of the square input, pixels."""
    crop_pct: float = Field(0.875, gt=0, le=2)
    """Share of the resized image's side that the centre crop keeps."""
    interpolation: str = "bicubic"
    """Of the resizing."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Per channel, of pixels in [0, 1]."""
    crop_mode: Literal["center", "squash", "border"] = "center"
    """How a picture that is not square is cropped."""
    freeze_norms: bool = False
    """Keep running statistics in trained stages too (weights whose statistics must not move). It says nothing
    about random weights: `scratch` trains the norms of any network."""
    stages: tuple[str, ...] | None = None
    """Modules whose outputs end the stages, in order; None: found from the architecture."""
    paper: str | None = None
    """Link."""
    summary: str = ""
    """One line for ``finetune zoo ls``."""

    @property
    def built_by(self) -> Literal["timm", "torchvision"]:
        """The library that knows the architecture."""
        return "torchvision" if self.source == "torchvision" else self.library

    @property
    def preprocessing(self) -> Preprocessing:
        """Resize, crop and normalisation of these weights."""
        return Preprocessing(
            size=self.size,
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_mode=self.crop_mode,
        )
