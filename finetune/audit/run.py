"""From a recipe to an audit: images read, features from the cache, findings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from finetune.audit.audit import Audit, audit
from finetune.recipe import Recipe

if TYPE_CHECKING:
    from finetune.data.imageset import ImageSet
    from finetune.features.extract import Features


def audit_recipe(recipe: Recipe, step: Callable[[str], None] = lambda name: None) -> Audit:
    """Read the recipe's images and look at them through its backbone. Raises FinetuneError."""
    from finetune import runtime
    from finetune.data import ahead
    from finetune.data.load import read_folder
    from finetune.data.threads import worker_count
    from finetune.features.extract import extract
    from finetune.zoo.create import create_backbone

    device = runtime.choose_device(recipe.device)
    runtime.configure_threads(runtime.choose_threads(recipe.threads))
    runtime.seed_everything(recipe.seed)
    read = ahead.take(recipe.data) or read_folder(recipe.data)
    backbone = create_backbone(
        recipe.backbone, pretrained=recipe.pretrained, image_size=recipe.data.image_size
    )
    backbone = backbone.to(device).eval()

    def features_of(images: ImageSet) -> Features:
        return extract(
            backbone, images, device=device, cache=recipe.probe.cache, threads=recipe.data.workers,
            message=lambda text: None,
        )  # fmt: skip

    return audit(read, features_of, threads=worker_count(recipe.data.workers), step=step)
