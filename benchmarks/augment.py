"""What batched augmentation costs beside torchvision an image at a time, and beside a training step.

    python -m benchmarks.augment [--runs 2] [--rounds 5] [--out benchmarks/augment.csv]
    python -m benchmarks.augment --device cuda           # prints only: the share of a ResNet-50 step at 224 px

CPU seconds of one process and one thread, the contenders taking turns; a figure is the median over all rounds of all
runs. Ratios mean something on a busy machine, milliseconds little.

operation   64 images of 64 x 64 px, uint8 in and out, an operation at parameters of its own for each image where ours
            allows it: torchvision's v2 functional called for each image (on uint8 tensors, on Pillow images) / ours
policy      64 images from the originals that each form keeps in memory, parameters drawn: the loader's form / ours
batches     the policy and all that brings its batches from decoded originals in memory: TrainBatches / DeviceBatches
step        our form of a policy / a training step (forward, backward, SGD) of the embedded backbone at 64 px, 64 images
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

BATCH, SIDE = 64, 64
FILL = (124.0, 116.0, 104.0)
Work = Callable[[], object]


def pictures(side: int, count: int = BATCH) -> list[Image.Image]:
    """Smooth random images: what augmentation costs does not depend on what they show."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return [Image.fromarray(s).resize((side, side), Image.Resampling.BICUBIC) for s in small]


def stacked(images: list[Image.Image]) -> Tensor:
    """(N, 3, H, W) uint8."""
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).contiguous()


def operations() -> Iterator[tuple[str, Work, Work, Work]]:
    """(name, ours, torchvision on tensors, torchvision on Pillow images)."""
    import torchvision.transforms.v2.functional as tv
    from torchvision.transforms import InterpolationMode

    from finetune.augment import pixelwise as pw
    from finetune.augment.colour import ColourMaps
    from finetune.augment.geometry import affine, crops, flips, perspectives, resample

    images = pictures(SIDE)
    batch, each = stacked(images), list(stacked(images))
    one, fill = np.ones(BATCH), list(FILL)
    smooth: dict[str, Any] = {"interpolation": InterpolationMode.BILINEAR, "fill": fill}
    ends = np.array([[4, 6], [60, 2], [58, 61], [3, 55]])
    starts = [[0, 0], [64, 0], [64, 64], [0, 64]]
    bends = np.random.default_rng(0).uniform(-0.1, 0.1, (BATCH, 2, 6, 6))
    shift = torch.randn(1, SIDE, SIDE, 2) * 0.02

    def warped(maps: np.ndarray, **keys: Any) -> Work:
        return lambda: resample(batch, maps, SIDE, FILL, **keys).round_().to(torch.uint8)

    def coloured(*names: str) -> Work:
        def work() -> object:
            maps = ColourMaps(BATCH)
            for name in names:
                getattr(maps, name)(0.05 * one if name == "hue" else 1.2 * one)
            return maps.apply(batch.float()).round_().to(torch.uint8)

        return work

    def pointwise(change: Callable[..., Tensor], *arguments: Any) -> Work:
        return lambda: change(batch.float(), *arguments).round_().to(torch.uint8)

    def jittered(image: Any) -> Any:
        return tv.adjust_hue(
            tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(image, 1.2), 1.2), 1.2), 0.05
        )

    box = np.tile([0.1, 0.1, 0.7, 0.7], (BATCH, 1))
    several = crops(box) @ flips(one > 0) @ affine(20 * one, 0.05, 0.03, 0.1)

    def geometric(image: Any) -> Any:
        small = tv.resized_crop(image, 6, 6, 38, 38, [SIDE, SIDE], antialias=True)
        return tv.affine(tv.horizontal_flip(small), 20, [3, 2], 1.0, [6.0, 0.0], **smooth)

    table: tuple[tuple[str, Work, Callable[[Any], Any]], ...] = (
        ("crop and resize", warped(crops(box)),
         lambda i: tv.resized_crop(i, 6, 6, 38, 38, [SIDE, SIDE], antialias=True)),
        ("flip", warped(flips(one > 0)), tv.horizontal_flip),
        ("rotate", warped(affine(20 * one)), lambda i: tv.rotate(i, -20, **smooth)),
        ("translate", warped(affine(shift_x=0.1 * one)), lambda i: tv.affine(i, 0, [6, 0], 1.0, [0, 0], **smooth)),
        ("shear", warped(affine(shear_x=0.2 * one)), lambda i: tv.affine(i, 0, [0, 0], 1.0, [11.0, 0], **smooth)),
        ("perspective", warped(perspectives(np.tile(ends / 32 - 1, (BATCH, 1, 1)))),
         lambda i: tv.perspective(i, starts, ends.tolist(), **smooth)),
        ("elastic warp", warped(np.tile(np.eye(3), (BATCH, 1, 1)), bends=bends),
         lambda i: tv.elastic(i, shift, **smooth)),
        ("crop, flip, rotate, shift, shear", warped(several), geometric),
        ("brightness", coloured("brightness"), lambda i: tv.adjust_brightness(i, 1.2)),
        ("contrast", coloured("contrast"), lambda i: tv.adjust_contrast(i, 1.2)),
        ("saturation", coloured("saturation"), lambda i: tv.adjust_saturation(i, 1.2)),
        ("hue", coloured("hue"), lambda i: tv.adjust_hue(i, 0.05)),
        ("brightness, contrast, saturation, hue", coloured("brightness", "contrast", "saturation", "hue"), jittered),
        ("posterize", pointwise(pw.posterize, 4 * one), lambda i: tv.posterize(i, 4)),
        ("solarize", pointwise(pw.solarize, 128 * one), lambda i: tv.solarize(i, 128)),
        ("autocontrast", pointwise(pw.autocontrast, one), tv.autocontrast),
        ("equalize", pointwise(pw.equalize, one), tv.equalize),
        ("sharpness", pointwise(pw.sharpness, 1.5 * one), lambda i: tv.adjust_sharpness(i, 1.5)),
        ("blur", pointwise(pw.blur, one), lambda i: tv.gaussian_blur(i, [7, 7], [1.0, 1.0])),
    )  # fmt: skip
    for name, ours, theirs in table:
        yield name, ours, lambda t=theirs: [t(x) for x in each], lambda t=theirs: [t(x) for x in images]  # type: ignore[misc]


def policies() -> Iterator[tuple[str, Work, Work]]:
    """(name, ours, the loader's)."""
    from finetune.augment import BATCHED
    from finetune.augment.draws import Counted
    from finetune.data import AUGMENTATIONS
    from finetune.data.preprocessing import Preprocessing

    prep = Preprocessing(SIDE, 1.0, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    samples = np.arange(BATCH)
    for name in BATCHED.names():
        policy, single = BATCHED.get(name)(prep), AUGMENTATIONS.get(name)(prep)
        batch = stacked(pictures(policy.kept))
        kept = [single.original(image) for image in pictures(160)]

        def ours(policy: Any = policy, batch: Tensor = batch) -> object:
            return policy(batch, Counted(0, 0, samples, 0 * samples), np.ones(BATCH))

        def loader(single: Any = single, kept: list[Image.Image] = kept) -> object:
            return np.stack([single.pixels(k, np.random.default_rng((0, i))) for i, k in enumerate(kept)])

        yield name, ours, loader


def batches() -> tuple[Work, Work]:
    """(ours, the loader's): an epoch of four batches of the policy ``standard``, originals decoded before."""
    from finetune.augment.device import DeviceBatches
    from finetune.data.batches import TrainBatches
    from finetune.data.load import from_datasets
    from finetune.data.preprocessing import Preprocessing

    prep = Preprocessing(SIDE, 1.0, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    rows = [(image, i % 2) for i, image in enumerate(pictures(160, 4 * BATCH))]
    images = from_datasets(rows, rows[:2], rows[:2], classes=["a", "b"]).train
    device = DeviceBatches(images, prep, "standard", BATCH, 0, device=torch.device("cpu"))
    loader = TrainBatches(images, prep, "standard", BATCH, 0)
    return lambda: list(device.epoch(0)), lambda: list(loader.epoch(0))


def step() -> Work:
    """A training step of the embedded backbone."""
    from finetune.zoo.create import create_backbone

    model = create_backbone("embedded", num_classes=10, image_size=SIDE).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9, nesterov=True, weight_decay=1e-4)
    x, y = torch.randn(BATCH, 3, SIDE, SIDE), torch.arange(BATCH) % 10

    def work() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return work


def turns(contenders: list[Work], rounds: int) -> list[list[float]]:
    """CPU seconds of each contender in each round, one after the other; the first round does not count."""
    took: list[list[float]] = [[] for _ in contenders]
    for number in range(rounds + 1):
        for work, times in zip(contenders, took, strict=True):
            began = time.process_time()
            work()
            if number:
                times.append(time.process_time() - began)
    return took


def measure(runs: int, rounds: int) -> list[dict[str, Any]]:
    """The rows of the table."""
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}

    def add(kind: str, name: str, against: str, ours: list[float], theirs: list[float]) -> None:
        found.setdefault((kind, name, against), []).extend(zip(ours, theirs, strict=True))

    for _ in range(runs):
        for name, ours, tensors, pillow in operations():
            a, b, c = turns([ours, tensors, pillow], rounds)
            add("operation", name, "v2, a tensor at a time", a, b)
            add("operation", name, "v2, a Pillow image at a time", a, c)
        a, b = turns(list(batches()), rounds)
        add("batches", "standard, four batches", "the loader's form", a, b)
        trained = step()
        for name, ours, loader in policies():
            a, b = turns([ours, loader], rounds)
            add("policy", name, "the loader's form", a, b)
            a, b = turns([ours, trained], 2 if name in ("standard", "rich") else 1)
            add("step", name, "step of the embedded backbone", a, b)
    rows = []
    for (kind, name, against), pairs in found.items():
        ours_ms, theirs_ms = (1000 * statistics.median(p[i] for p in pairs) for i in (0, 1))
        ratio = ours_ms / theirs_ms if kind == "step" else theirs_ms / ours_ms
        rows.append({"kind": kind, "name": name, "against": against, "ours_ms": round(ours_ms, 2),
                     "theirs_ms": round(theirs_ms, 2), "ratio": round(ratio, 3), "rounds": len(pairs),
                     "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                     "date": datetime.date.today().isoformat()})  # fmt: skip
        print(f"{kind:10} {name:38} {against:30} {ours_ms:8.2f} {theirs_ms:8.2f} {ratio:8.3f}", flush=True)
    return rows


def on_gpu() -> None:
    """Share of a ResNet-50 step at 224 px (bf16, channels last, batch 64) that augmentation on the same GPU takes."""
    import timm

    from finetune.augment import BATCHED
    from finetune.augment.draws import Counted
    from finetune.data.preprocessing import Preprocessing

    device = torch.device("cuda")
    prep = Preprocessing(224, 0.875, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    model = timm.create_model("resnet50").to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    labels, samples = torch.arange(BATCH, device=device), np.arange(BATCH)
    fixed = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8, device=device)

    def trained(images: Tensor) -> None:
        x = prep.normalise(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def seconds(work: Work, count: int = 30) -> float:
        """Of one of many calls in a row: what of the host's work the GPU hides is hidden."""
        for _ in range(5):
            work()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            work()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / count

    for name in BATCHED.names():
        policy = BATCHED.get(name)(prep)
        whole = torch.randint(0, 256, (BATCH, 3, policy.kept, policy.kept), dtype=torch.uint8, device=device)

        def made(policy: Any = policy, whole: Tensor = whole) -> Tensor:
            out: Tensor = policy(whole, Counted(0, 0, samples, 0 * samples), np.ones(BATCH))
            return out

        bare, both, alone = [], [], []
        for _ in range(3):
            bare.append(seconds(lambda: trained(fixed)))
            both.append(seconds(lambda: trained(made())))
            alone.append(seconds(made))
        a, b, c = (1000 * statistics.median(x) for x in (bare, both, alone))
        print(
            f"{name:12} step {a:.2f} ms, with augmentation {b:.2f} ms ({100 * (b / a - 1):+.1f}%), alone {c:.2f} ms"
        )


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/augment.csv"))
    options = parser.parse_args()
    if options.device == "cuda":
        return on_gpu()
    torch.set_num_threads(1)
    rows = measure(options.runs, options.rounds)
    with options.out.open("w", newline="") as file:
        file.write(f"# python -m benchmarks.augment --runs {options.runs} --rounds {options.rounds}\n")
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return None


if __name__ == "__main__":
    main()
