"""Preprocessing: what a network expects its input to look like. Torch-free until a batch is normalised."""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from finetune.errors import ConfigError, did_you_mean, must

if TYPE_CHECKING:
    import numpy as np
    import torch

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
CROP_MODES = ("center", "squash", "border")
_CACHED = 1 << 18
"""Values that fit a processor's cache as floats."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop and normalisation that belong to a set of weights; one record, never mixed up.

    Evaluation is timm's: scale to ``floor(size / crop_pct)``, crop the centre ``size`` pixels, divide by
    255, subtract ``mean``, divide by ``std``.
    """

    size: int
    """Side of the square network input, pixels."""
    crop_pct: float
    """Share of the resized image's side that the centre crop keeps."""
    interpolation: str
    """nearest, bilinear, bicubic, lanczos, box or hamming: PIL's filters of those names."""
    mean: tuple[float, float, float]
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, float, float]
    """Per channel, of pixels in [0, 1]."""
    crop_mode: Literal["center", "squash", "border"] = "center"
    """center: short side to the scale; squash: both; border: long side, padded with the mean."""
    mean_image: str | None = None
    """What is subtracted at each place instead of ``mean``: see ``encode_mean_image``."""

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise ConfigError(must("preprocessing.size", "an int > 0", repr(self.size)))
        if not 0 < self.crop_pct <= 2:
            raise ConfigError(must("preprocessing.crop_pct", "a float in (0, 2]", repr(self.crop_pct)))
        if self.interpolation not in INTERPOLATIONS:
            known = f"one of {', '.join(INTERPOLATIONS)}"
            raise ConfigError(must("preprocessing.interpolation", known, repr(self.interpolation)))
        if self.crop_mode not in CROP_MODES:
            known = f"one of {', '.join(CROP_MODES)}"
            raise ConfigError(must("preprocessing.crop_mode", known, repr(self.crop_mode)))
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3:
                raise ConfigError(must(f"preprocessing.{field}", "three floats", repr(values)))
            object.__setattr__(self, field, tuple(float(v) for v in values))
        if min(self.std) <= 0:
            raise ConfigError(must("preprocessing.std", "three floats > 0", repr(self.std)))

    @property
    def scale_size(self) -> int:
        """Side that the image is resized to before the crop, pixels."""
        return math.floor(self.size / self.crop_pct)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON and YAML."""
        tree = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if self.mean_image is None:
            del tree["mean_image"]
        return tree

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Preprocessing:
        """The inverse of to_dict; raises ConfigError for unknown, missing or invalid keys."""
        known = [f.name for f in fields(cls)]
        for key in tree:
            if key not in known:
                raise ConfigError(f"preprocessing.{key}: unknown key.{did_you_mean(key, known)}")
        missing = [k for k in known if k not in tree and k not in ("crop_mode", "mean_image")]
        if missing:
            raise ConfigError(
                must(
                    "preprocessing",
                    f"a mapping with {', '.join(known[:-2])}",
                    f"one without {', '.join(missing)}",
                )
            )
        values: dict[str, Any] = {k: tuple(v) if k in ("mean", "std") else v for k, v in tree.items()}
        return cls(**values)

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> float32 of the same shape and memory format, on the same device.

        The same three operations in the same order as torchvision's ToTensor and Normalize, so that the
        answers of an exported network agree to the last bit.
        """
        import torch

        # Made on a GPU itself they would make the processor wait for all that the GPU still has to do.
        mean, std = (
            torch.tensor(values).view(3, 1, 1).to(batch.device, non_blocking=batch.is_cuda)
            for values in (self.mean, self.std)
        )
        if self.mean_image is not None:
            mean = mean_image(self.mean_image, *batch.shape[-2:]).to(batch.device, non_blocking=batch.is_cuda)
        made = torch.empty_like(batch, dtype=torch.float32)
        few = max(1, len(batch))
        if batch.device.type == "cpu":  # a few at a time stay in the cache from one operation to the next
            few = max(1, _CACHED * few // max(1, batch.numel()))
        for source, target in zip(torch.split(batch, few), torch.split(made, few), strict=True):
            target.copy_(source).div_(255).sub_(mean).div_(std)
        return made


def encode_mean_image(pixels: np.ndarray) -> str:
    """(S, S, 3) uint8, a mean image in 8 bits, as the base64 of a PNG: plain text for JSON and YAML."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


@functools.lru_cache(maxsize=8)
def mean_image(text: str, height: int, width: int) -> torch.Tensor:
    """(3, height, width) float32 in [0, 1], resized where the images in hand are of another size. Not to be changed."""
    import io

    import numpy as np
    import torch
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
        made = image.convert("RGB")
    if made.size != (width, height):
        made = made.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(made)).permute(2, 0, 1).float().div_(255)
