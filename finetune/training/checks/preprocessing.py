"""The network gets the pixels that its card promises it: size, mean, std, and the range that follows from them."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor, nn

from finetune.data.preprocessing import mean_image
from finetune.training.checks import Check, Scene
from finetune.training.job import Job
from finetune.training.trial import on_a_copy

NAME = "preprocessing"
_MEANT_TO_DIFFER = {"size"}
"""What a recipe may set without being wrong."""
_FEW = 8


def preprocessing(scene: Scene) -> Check:
    """Compare with the card, and the values that reach the first layer with those computed from the card."""
    job, card = scene.job, scene.job.backbone.card
    used, wanted = asdict(job.backbone.preprocessing), asdict(card.preprocessing)
    if job.backbone.own_statistics:
        wanted |= {key: used[key] for key in ("mean", "std", "mean_image")}
    odd = [key for key in wanted if used[key] != wanted[key] and key not in _MEANT_TO_DIFFER]
    if odd:
        said = "; ".join(f"{key} {used[key]} where the card of {card.name} says {wanted[key]}" for key in odd)
        remedy = "Use the card's values, or correct the card (a zoo.yaml of your own)."
        return Check(NAME, "failure", f"{said}.", remedy)
    pixels = scene.pixels[:_FEW]
    if pixels.shape[-1] != used["size"]:
        return Check(NAME, "failure", f"images of {pixels.shape[-1]} px where the network expects {used['size']}.",
                     "Set data.image_size.")  # fmt: skip
    low, high = int(pixels.min()), int(pixels.max())
    if low < high <= 1:
        return Check(NAME, "failure", "all pixels are 0 or 1 of 255: the images are black to the network.",
                     "Images in [0, 1] were stored as whole numbers: multiply by 255 before.")  # fmt: skip
    seen = what_the_network_sees(job, pixels)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (wanted["mean"], wanted["std"]))
    if wanted["mean_image"]:
        mean = mean_image(wanted["mean_image"], used["size"], used["size"])
    expected = ((pixels.float() / 255 - mean) / std)[: len(seen)]  # memory may hold fewer at a time
    if not bool(torch.isfinite(seen).all()):
        return Check(NAME, "failure", "values that are no numbers reach the network.", "Look at the images.")
    span = f"[{float(seen.min()):.2f}, {float(seen.max()):.2f}]"
    if seen.shape != expected.shape or float((seen - expected).abs().max()) > 0.1:
        right = f"[{float(expected.min()):.2f}, {float(expected.max()):.2f}]"
        return Check(
            NAME, "failure", f"values in {span} reach the network, {right} would follow from the card's mean and std.",
            "Normalise once, from [0, 255] through [0, 1], with the card's mean and std.",
        )  # fmt: skip
    return Check(NAME, "ok", f"{used['size']} px, {used['interpolation']}, values in {span} as the card says")


@torch.no_grad()
def what_the_network_sees(job: Job, pixels: Tensor) -> Tensor:
    """(n, 3, S, S) float32 on the CPU: the first picture-like argument of any of the network's modules."""
    found: list[Tensor] = []

    def look(_: nn.Module, arguments: tuple[object, ...]) -> None:
        for x in arguments:
            if not found and isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] == 3:
                found.append(x.detach().float().cpu())

    with on_a_copy(job) as trial:
        trial.backbone.eval()
        for module in trial.backbone.modules():
            module.register_forward_pre_hook(look)
        with trial.engine.autocast():
            trial.micro.logits(pixels.to(job.engine.device))
    return found[0] if found else job.backbone.preprocessing.normalise(pixels.to(job.engine.device)).cpu()
