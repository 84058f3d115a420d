"""What it costs to turn photo files into normalised 224-pixel crops, beside torchvision, in CPU time.

    python -m benchmarks.decode [--repeats 5] [--out benchmarks/decode.csv]

Milliseconds of CPU time an image (one process, one thread): decoding, a random resized crop of 35 to 100% of the
area (bilinear, antialiased), a flip half of the time, normalisation, into batches. In the rows of "evaluation" the
short side is resized to 256 and the middle cut out instead. Contenders take turns; milliseconds are the median of the
turns, ratios to torchvision's transforms, of evaluation to its evaluation, the median of the ratios within a turn.

torchvision v1     Pillow, transforms on Pillow images: ImageFolder's way
torchvision v2     decode_jpeg (deprecated since 0.29), transforms v2 on 8-bit tensors
check              reading: every file seen to be whole, at 1/8 of its size; part of no other row
cold               first epoch of ours, nothing decoded before
exact, cold        the same with data.decode=exact
next epoch         ours, originals in memory
next run           first epoch of another run with data.cache=disk, originals mapped from the disk
exact, next epoch  ours with data.decode=exact, originals in memory

Photos are made on the fly: 1/f spectra with grain, JPEG quality 90, so that 500-pixel ones have as many bytes (42 KB)
as real photos scaled to that size, and 12-megapixel ones 0.1 byte a pixel. The rows "tolerance" compare evaluation
images of fast and exact decoding: mean absolute difference and 99th percentile, of 255.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import os
import platform
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE, CROP = 224, (0.35, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETS = {"500 px": ((500, 375), 4.0, 32), "12 MP": ((4000, 3000), 1.5, 4)}
"""Width and height, deviation of the grain, how many photos."""


def photo(seed: int, size: tuple[int, int], grain: float) -> Image.Image:
    """A picture with the spectrum of a photo: octaves of noise, each as strong as its wavelength, mostly grey."""
    rng = np.random.default_rng(seed)
    width, height = size
    made, cells = np.zeros((height, width, 3), np.float32), 4
    while cells < 2 * width:
        shape = (max(2, cells * height // width), min(cells, width))
        noise = 0.35 * rng.normal(size=(*shape, 3)) + rng.normal(size=(*shape, 1))
        for c in range(3):
            channel = Image.fromarray(noise[..., c].astype(np.float32))
            made[..., c] += np.asarray(channel.resize(size, Image.Resampling.BICUBIC)) * cells**-0.9
        cells *= 2
    made = 128 + 52 * (made - made.mean()) / made.std()
    made += rng.normal(0, grain, (height, width, 1)).astype(np.float32)
    return Image.fromarray(made.clip(0, 255).astype(np.uint8))


def write_photos(folder: Path, size: tuple[int, int], grain: float, count: int) -> None:
    """Two classes of photos below ``folder``."""
    for i in range(count):
        target = folder / "train" / "ab"[i % 2] / f"{i}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        photo(i, size, grain).save(target, quality=90)
    for split in ("val", "test"):
        shutil.copytree(folder / "train", folder / split)


def torchvisions(files: list[Path]) -> dict[str, Callable[[], Any]]:
    """Both generations of transforms, each a batch of all files."""
    import torch
    import torchvision.transforms as v1
    import torchvision.transforms.v2 as v2
    from torchvision.io import ImageReadMode, decode_jpeg

    first = v1.Compose([v1.RandomResizedCrop(SIZE, CROP), v1.RandomHorizontalFlip(), v1.ToTensor(),
                        v1.Normalize(MEAN, STD)])  # fmt: skip
    second = v2.Compose([v2.RandomResizedCrop(SIZE, CROP, antialias=True), v2.RandomHorizontalFlip(),
                         v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])  # fmt: skip

    third = v1.Compose([v1.Resize(256), v1.CenterCrop(SIZE), v1.ToTensor(), v1.Normalize(MEAN, STD)])
    fourth = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(SIZE), v2.ToDtype(torch.float32, scale=True),
                         v2.Normalize(MEAN, STD)])  # fmt: skip

    def pillow(path: Path) -> Any:
        with path.open("rb") as file:
            return Image.open(file).convert("RGB")

    def tensor(path: Path) -> Any:
        data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        return decode_jpeg(data, mode=ImageReadMode.RGB)

    return {
        "torchvision v1": lambda: torch.stack([first(pillow(path)) for path in files]),
        "torchvision v2": lambda: torch.stack([second(tensor(path)) for path in files]),
        "evaluation, torchvision v1": lambda: torch.stack([third(pillow(path)) for path in files]),
        "evaluation, torchvision v2": lambda: torch.stack([fourth(tensor(path)) for path in files]),
    }


def ours(folder: Path, decode: str, cache: str) -> Any:
    """TrainBatches over the photos, none of which is decoded yet; crops and flips only."""
    from finetune.data.batches import TrainBatches
    from finetune.data.folder import Decoded
    from finetune.data.load import read_folder
    from finetune.data.preprocessing import Preprocessing
    from finetune.recipe import DataRecipe

    recipe = DataRecipe(path=str(folder), decode=decode, cache=cache, workers=1)  # type: ignore[arg-type]
    images = read_folder(recipe, Decoded(0)).given["train"]
    prep = Preprocessing(SIZE, 0.875, "bilinear", MEAN, STD)
    return TrainBatches(images, prep, "standard", 32, seed=0, threads=1, avoid=("colour",), memory=2**30)


def epoch(batches: Any, number: int) -> None:
    """Every image once, normalised."""
    for pixels, _ in batches.epoch(number):
        batches.prep.normalise(pixels)


def evaluate(batches: Any) -> None:
    """Every image once as evaluation wants it, normalised."""
    from finetune.data.batches import eval_batches

    for pixels in eval_batches(batches.images, batches.prep, 32):
        batches.prep.normalise(pixels)


def turns(folder: Path, repeats: int) -> dict[str, list[float]]:
    """CPU milliseconds an image of every contender, in turns."""
    from finetune.data.folder import Decoded, check_files

    files = sorted((folder / "train").rglob("*.jpg"))
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> None:
        began = time.process_time()
        work()
        seconds.setdefault(name, []).append(1000 * (time.process_time() - began) / len(files))

    places = [(path.parent, path.name) for path in files]
    epoch(ours(folder, "fast", "disk"), 0)  # fills the cache
    for _ in range(repeats):
        for name, work in torchvisions(files).items():
            timed(name, work)
        timed("check", lambda: check_files(places, max_pixels=10**8, workers=1, decoded=Decoded(0)))
        for mark, decode in (("", "fast"), ("exact, ", "exact")):
            batches = ours(folder, decode, "memory")
            timed(f"{mark}cold", lambda b=batches: epoch(b, 0))  # type: ignore[misc]
            timed(f"{mark}next epoch", lambda b=batches: epoch(b, 1))  # type: ignore[misc]
        stored = ours(folder, "fast", "disk")
        timed("next run", lambda b=stored: epoch(b, 0))  # type: ignore[misc]
        fresh = ours(folder, "fast", "memory")
        timed("evaluation", lambda b=fresh: evaluate(b))  # type: ignore[misc]
    return seconds


def tolerance(folder: Path) -> tuple[float, float]:
    """Mean absolute difference and 99th percentile between fast and exact evaluation images, of 255."""
    from finetune.data.batches import eval_tensor

    both = (ours(folder, decode, "memory") for decode in ("fast", "exact"))
    fast, exact = (eval_tensor(b.images, b.prep).short() for b in both)
    apart = (fast - exact).abs().float()
    return float(apart.mean()), float(np.percentile(apart.numpy(), 99))


def rows(repeats: int) -> Iterator[dict[str, Any]]:
    """The table's rows."""
    told = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.date.today().isoformat(),
    }
    for name, (size, grain, count) in SETS.items():
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["FINETUNE_CACHE"] = f"{scratch}/cache"
            folder = Path(scratch) / "photos"
            write_photos(folder, size, grain, count)
            kilobytes = sum(p.stat().st_size for p in (folder / "train").rglob("*.jpg")) / count / 1000
            found = turns(folder, repeats)
            for what, times in found.items():
                kind = "evaluation, " if what.startswith("evaluation") else ""
                first, second = (
                    statistics.median(
                        a / b for a, b in zip(times, found[f"{kind}torchvision {v}"], strict=True)
                    )
                    for v in ("v1", "v2")
                )
                yield {"photos": name, "kilobytes": round(kilobytes), "what": what,
                       "ms": round(statistics.median(times), 2), "of_v1": round(first, 3), "of_v2": round(second, 3),
                       **told}  # fmt: skip
            mean, high = tolerance(folder)
            yield {"photos": name, "kilobytes": round(kilobytes), "what": f"tolerance: mean {mean:.2f}, 99% {high:.0f}",
                   "ms": "", "of_v1": "", "of_v2": "", **told}  # fmt: skip


def main() -> None:
    """Measure and write the table."""
    import torch

    warnings.filterwarnings("ignore", category=DeprecationWarning, message="The image decoding")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/decode.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = io.StringIO()
    writer: Any = None
    for row in rows(options.repeats):
        if writer is None:
            writer = csv.DictWriter(text, row)
            writer.writeheader()
        writer.writerow(row)
        print(
            f"{row['photos']:8} {row['what']:30} {row['ms']:>8} ms  {row['of_v1']:>6}  {row['of_v2']:>6}",
            flush=True,
        )
    options.out.write_text(f"# python -m benchmarks.decode --repeats {options.repeats}\n{text.getvalue()}")


if __name__ == "__main__":
    main()
