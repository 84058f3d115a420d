"""What our training loop costs beside a hand-written one, in CPU time, the two taking turns epoch by epoch.

    python -m benchmarks.overhead [--images 1024] [--epochs 6] [--out benchmarks/overhead.csv]
    python -m benchmarks.overhead --data DIR                         # and whole processes

Every figure is a ratio of CPU seconds of one process and one thread, the images as uint8 tensors in memory:

loop        an epoch of full finetuning without augmentation: bare loop / ours, so 1 is no overhead at all
defaults    the same with our defaults on (standard augmentation, weight averages, gradient clipping)
partial     all epochs of the last stage: ours / (the frozen part once + the bare loop over the last stage)
files       an epoch of full finetuning from JPEG files, decoded in the first one: ours / bare loop on tensors in memory

With --data (a folder with train/ and test/) whole processes, from start to end, over the floor: a bare fp32 resnet18
at 64 px, a step for each training image and a forward pass for each test image. `scratch` has the cost of plain full
finetuning; `full` solves a head first and has a safety net after. Both draw figures and write files. The plain loop
is a page of torchvision code that does less. Absolute seconds mean nothing on a shared machine; the ratio does.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from finetune.data.imageset import DataBundle

SIZE, BATCH, CLASSES = 64, 64, 10

STEP = """
import sys, time, torch, timm
torch.set_num_threads(1)
train, test = int(sys.argv[1]), int(sys.argv[2])
model = timm.create_model("resnet18", num_classes=25)
optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
images, labels = torch.randn(64, 3, 64, 64), torch.randint(0, 25, (64,))
def step():
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
step()
began = time.process_time()
for _ in range(train // 64):
    step()
model.eval()
with torch.inference_mode():
    for _ in range(test // 64):
        model(images)
print(time.process_time() - began)
"""

PLAIN = """
import sys, torch, timm
from torch.utils.data import DataLoader
from torchvision import datasets, transforms as T
torch.set_num_threads(1)
root = sys.argv[1]
norm = T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
crop = [T.RandomResizedCrop(64), T.RandomHorizontalFlip(), T.ToTensor(), norm]
train = datasets.ImageFolder(root + "/train", T.Compose(crop))
test = datasets.ImageFolder(root + "/test", T.Compose([T.Resize(64), T.CenterCrop(64), T.ToTensor(), norm]))
model = timm.create_model("resnet18", num_classes=len(train.classes))
optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
for x, y in DataLoader(train, 64, shuffle=True, num_workers=2):
    loss = torch.nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
model.eval()
with torch.inference_mode():
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in DataLoader(test, 64, num_workers=2))
print(right / len(test))
"""


def bare_epoch(images: torch.Tensor, labels: torch.Tensor, forward: Any, optimizer: Any) -> float:
    """CPU seconds of one pass in random order, the way a page of code would have it."""
    import torch

    began = time.process_time()
    for chosen in torch.randperm(len(images)).split(BATCH):
        loss = torch.nn.functional.cross_entropy(forward(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.process_time() - began


def random_images(images: int, files: Path | None) -> tuple[DataBundle, torch.Tensor, torch.Tensor]:
    """Labelled noise as our loop takes it, and as tensors, (N, 3, SIZE, SIZE) uint8 and (N,); with ``files`` from JPEG
    files of twice the side that are written there."""
    import torch
    from torchvision.io import write_jpeg

    from finetune.data.batches import eval_tensor
    from finetune.data.datasets import DatasetImages, ReadDataset
    from finetune.data.imageset import DataBundle
    from finetune.data.load import load_data
    from finetune.recipe import Recipe
    from finetune.zoo.zoo import card

    draw, side = torch.Generator().manual_seed(0), SIZE if files is None else 2 * SIZE
    pixels = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, generator=draw)
    labels = torch.arange(images) % CLASSES
    if files is None:
        read = ReadDataset([(pixels[i], int(labels[i])) for i in range(images)], "train")
        everything = DatasetImages(read, labels.numpy(), tuple(f"class {k}" for k in range(CLASSES)))
        return DataBundle(everything, everything.subset([]), everything.subset(range(BATCH))), pixels, labels
    for i in range(images):
        folder = files / "train" / str(int(labels[i]))
        folder.mkdir(parents=True, exist_ok=True)
        write_jpeg(pixels[i], str(folder / f"{i}.jpg"))
    found = load_data(Recipe().override(f"data.path={files}", "data.val_fraction=0.1").data, 0)
    everything = found.train
    tensor = eval_tensor(everything, replace(card("embedded").preprocessing, size=SIZE))
    whole = DataBundle(everything, everything.subset([]), everything.subset(range(BATCH)))
    return whole, tensor, torch.from_numpy(everything.labels)


def turns(
    images: int, epochs: int, train_from: int, files: Path | None = None, **keys: Any
) -> tuple[list[float], list[float], float, float]:
    """Seconds of every epoch of ours and of the bare loop on a copy of the network, taken in turns; then what each
    spent before its first epoch on the part that is frozen."""
    import torch

    from finetune.events import Listener
    from finetune.recipe import Recipe
    from finetune.strategy.plan import GradientPhase, Plan
    from finetune.training import loop
    from finetune.training.execute import execute
    from finetune.training.feed import Feed
    from finetune.zoo.create import create_backbone

    torch.set_num_threads(1)
    bundle, pixels, labels = random_images(images, files)
    mine, theirs = (create_backbone("embedded", pretrained=True, image_size=SIZE) for _ in range(2))
    theirs.reset_head(CLASSES, 0)
    theirs.freeze_below(train_from)
    theirs.freeze_norms()
    theirs.train()
    optimizer = torch.optim.SGD(
        [p for p in theirs.parameters() if p.requires_grad],
        0.001,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
    )

    def normalised(x: torch.Tensor) -> torch.Tensor:
        return theirs.preprocessing.normalise(x)

    began = time.process_time()
    hidden = pixels
    if train_from:
        with torch.no_grad():
            hidden = torch.cat([theirs.prefix(normalised(x), train_from) for x in pixels.split(BATCH)])
    before_theirs = time.process_time() - began

    def forward(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = theirs.suffix(x, train_from) if train_from else theirs(normalised(x))
        return out

    ours, bare, before_ours = [], [], [0.0]
    train_epoch, prepare = loop.train_epoch, Feed.prepare

    def timed_epoch(job: Any, epoch: int) -> None:
        began = time.process_time()
        train_epoch(job, epoch)
        ours.append(time.process_time() - began)

    def timed_prepare(feed: Any, precision: Any) -> str | None:
        began = time.process_time()
        said = prepare(feed, precision)
        before_ours[0] = time.process_time() - began
        return said

    class Turns(Listener):
        def on_epoch(self, row: dict[str, Any]) -> None:
            bare.append(bare_epoch(hidden, labels, forward, optimizer))

    phase = GradientPhase(
        train_from=train_from, epochs=epochs, lr=0.001, head_lr=0.001, batch_size=BATCH,
        keep="last", batch_norm="frozen", **{"augment": "none", "ema": None, "clip_grad": None, **keys},
    )  # fmt: skip
    recipe = Recipe.from_mapping(
        {
            "threads": 1,
            "train": {"preflight": False, "coach": False, "precision": "fp32", "channels_last": False},
        }
    )
    loop.train_epoch, Feed.prepare = timed_epoch, timed_prepare  # type: ignore[assignment,method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            plan = Plan(strategy="overhead", phases=(phase,), why="To be timed.")
            execute(plan, mine, bundle, recipe, folder, Turns())
    finally:
        loop.train_epoch, Feed.prepare = train_epoch, prepare  # type: ignore[method-assign]
    return ours, bare, before_ours[0], before_theirs


def loops(images: int, epochs: int) -> Iterator[tuple[str, float, float]]:
    """(what, ours, bare) in CPU seconds, of epochs the median but for the first, which takes memory."""
    for what, keys in (("loop", {}), ("defaults", {"augment": "standard", "ema": 0.99, "clip_grad": 1.0})):
        ours, bare, _, _ = turns(images, epochs, 0, **keys)
        yield what, statistics.median(ours[1:]), statistics.median(bare[1:])
    ours, bare, before_ours, before_theirs = turns(images, epochs, 4)
    yield "partial", before_ours + sum(ours), before_theirs + sum(bare)
    with tempfile.TemporaryDirectory() as folder:
        ours, bare, _, _ = turns(images, epochs, 0, Path(folder))
        yield "files", statistics.median(ours[1:]), statistics.median(bare[1:])


def processes(data: Path) -> Iterator[tuple[str, float, float]]:
    """(what, seconds, floor) of whole processes: one epoch of everything."""
    from benchmarks.probe_speed import count, cpu_seconds

    sizes = [str(count(data / split)) for split in ("train", "test")]
    floor = float(cpu_seconds([sys.executable, "-c", STEP, *sizes])[1])
    yield "plain loop", cpu_seconds([sys.executable, "-c", PLAIN, str(data)])[0], floor
    with tempfile.TemporaryDirectory() as scratch:
        for name, *words in (
            ("finetune, scratch", "--strategy", "scratch", "--no-preflight"),
            ("finetune, scratch, preflight", "--strategy", "scratch"),
            ("finetune, full", "--strategy", "full", "--no-preflight"),
        ):
            command = [sys.executable, "-m", "finetune", "run", "--data", str(data), *words, "--backbone", "resnet18",
                       "--out", f"{scratch}/{name}", "pretrained=false", "data.image_size=64", "threads=1",
                       "train.epochs=1", "train.refit=false", "--quiet"]  # fmt: skip
            yield name, cpu_seconds(command, FINETUNE_CACHE=f"{scratch}/{name} cache")[0], floor


def bf16_pays() -> bool:
    """Whether training will try it on this processor: the rows of whole processes then compute in it."""
    import torch

    from finetune.training.precision import likely_dtype

    return likely_dtype("auto", torch.device("cpu")) == torch.bfloat16


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/overhead.csv"))
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores{', bf16 units' if bf16_pays() else ''}"
    rows = []
    for repeat in range(options.repeats):
        found = list(loops(options.images, options.epochs))
        found += processes(options.data) if options.data else []
        for what, ours, floor in found:
            ratio = floor / ours if what in ("loop", "defaults") else ours / floor
            rows.append({"what": what, "repeat": repeat, "cpu_seconds": round(ours, 2), "floor": round(floor, 2),
                         "ratio": round(ratio, 3), "machine": machine,
                         "date": datetime.date.today().isoformat()})  # fmt: skip
            print(f"{what:30} {ours:8.2f} s  {floor:8.2f} s  {ratio:.3f}", flush=True)
    with options.out.open("w", newline="") as file:
        file.write(f"# python -m benchmarks.overhead --images {options.images} --epochs {options.epochs} "
                   f"--repeats {options.repeats}{' --data DIR' if options.data else ''}\n")  # fmt: skip
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
