"""Keys that a recipe's ``train`` section and a gradient phase of a plan have in common: loss and regularisers.

They mean the same in both and are off by default, so a strategy hands them on as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _named(value: Any) -> Any:
    """Class names that YAML reads as numbers are names all the same."""
    return {str(name): weight for name, weight in value.items()} if isinstance(value, Mapping) else value


_Weight = Annotated[float, Field(gt=0, le=1e6)]


class Regularisers(BaseModel):
    """What the loss is and what keeps the weights from fitting the training images alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    loss: Literal["cross-entropy", "focal", "bce", "mse", "l1", "huber"] = "cross-entropy"
    """cross-entropy; focal (arXiv 1708.02002), which turns to the images that are still wrong; bce, a yes or no
    for each class (binary cross-entropy, summed over the classes). Of several labels an image: bce (the default
    there) or focal. Of a number, in standard deviations: mse (the default there), l1 or huber."""
    huber_delta: float = Field(1.0, gt=0, le=100)
    """Where the Huber loss turns from squared to absolute, in standard deviations of the number."""
    focal_gamma: float = Field(2.0, ge=0, le=10)
    """Of the focal loss: 0 is cross-entropy, more looks away from the easy images sooner."""
    class_weights: Annotated[
        Literal["none", "balanced", "sqrt"] | dict[str, _Weight], BeforeValidator(_named)
    ] = "none"
    """What an image counts by its class: none; balanced, n / (K n_k); sqrt, the root of that with mean 1; or a
    weight by class name, 1 for those left out. Of several labels an image: the weight of a yes (balanced: images
    without the label over images with it)."""
    sampling: Literal["natural", "balanced"] = "natural"
    """natural: each image once an epoch; balanced: each class equally often, so that images of small classes
    return several times an epoch, each time augmented anew."""
    mixup: float = Field(0.0, ge=0, le=100)
    """Mixup of images and labels with a share drawn from Beta(alpha, alpha) a batch (arXiv 1710.09412); 0: off."""
    cutmix: float = Field(0.0, ge=0, le=100)
    """CutMix: a rectangle of another image, its area drawn likewise (arXiv 1905.04899); with mixup, one of the
    two by a coin each batch; 0: off."""
    input_noise: float = Field(0.0, ge=0, le=10)
    """Standard deviation of Gaussian noise on the normalised pixels; 0: off."""
    l1: float = Field(0.0, ge=0, le=1000)
    """Strength of the L1 penalty, strength * sum |w|; with weight_decay it is the elastic net. Norms and biases
    are excluded."""
    l2_sp: float = Field(0.0, ge=0, le=1000)
    """Strength of L2-SP, strength / 2 * |w - w0|^2 with w0 the pretrained weights (arXiv 1802.01483). It takes
    weight decay's place in the body; the head keeps that."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the features that the head does not see, drawn for each image (Srivastava et al. 2014)."""
    drop_connect: float = Field(0.0, ge=0, lt=1)
    """Share of the head's weights that are off, drawn for each batch (DropConnect, Wan et al. 2013)."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth: probability that the last residual block is skipped, falling linearly to 0 at the first
    (arXiv 1603.09382)."""
    head: Literal["linear", "bottleneck", "fractional-pool"] = "linear"
    """linear; bottleneck: a hidden layer of ``bottleneck`` units and a ReLU before it; fractional-pool: linear, on
    the last feature map after fractional max pooling (arXiv 1412.6071), from the run's first phase on. The last
    two stay with finetune: plain timm or torchvision weights have no place for them."""
    bottleneck: int = Field(256, ge=1, le=65536)
    """Units of the bottleneck head."""
