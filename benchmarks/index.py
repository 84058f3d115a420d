"""One million images: how long it takes to list, to split and to sample them, and how much memory.

    python -m benchmarks.index [--out benchmarks/index.csv] [--source folder table shards]

Nothing is decoded: the images are names (empty files, links to one another's folders), and what opening them would have
found, sizes and fingerprints, is made up. Each source has a process of its own, whose peak memory counts everything,
Python and libraries too. The stages:

list        from data.path to a listing: the folder tree walked, the table read and every file looked for, or the index
            of 100 shards read back. `scan` is the first time for shards, header by header.
images      the set of checked images and their labels
split       70/15/15 by class, copies kept together
grouped     the same by 100,000 groups
folds       5 folds by class
sample      the order of an epoch, that of a class-balanced one, and 100 images of each class
"""

from __future__ import annotations

import argparse
import csv
import datetime
import hashlib
import io
import os
import platform
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

ROWS, CLASSES, PARTS, EACH = 1_000_000, 100, 10, 1_000
SOURCES = ("folder", "table", "shards")
COLUMNS = ("source", "stage", "images", "seconds", "peak_mb", "date", "machine")

T = TypeVar("T")


class Watch:
    """CPU seconds of the one thread, which other programs on the machine do not lengthen much, and peak memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float]] = []

    def __call__(self, stage: str, work: Callable[[], T]) -> T:
        began = time.process_time()
        found = work()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
        self.rows.append((stage, time.process_time() - began, peak))
        print(",".join((stage, f"{self.rows[-1][1]:.2f}", f"{peak:.0f}")), flush=True)
        return found


def make(root: Path, source: str) -> None:
    """The files: 100 folders of 1,000, each seen from ten classes; a table of them; or 100 names of 10 shards."""
    if source == "shards":
        _make_shards(root / "shards")
        return
    for folder in range(CLASSES):
        (root / "files" / f"{folder:03d}").mkdir(parents=True)
        for i in range(EACH):
            (root / "files" / f"{folder:03d}" / f"{i:05d}.jpg").touch()
    for k in range(CLASSES):
        (root / "tree" / f"class{k:03d}").mkdir(parents=True)
        for part in range(PARTS):
            real = root / "files" / f"{(k + 7 * part) % CLASSES:03d}"
            (root / "tree" / f"class{k:03d}" / f"part{part}").symlink_to(real, target_is_directory=True)
    with (root / "tree" / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "patient"))
        for k in range(CLASSES):
            for part in range(PARTS):
                for i in range(EACH):
                    writer.writerow((f"class{k:03d}/part{part}/{i:05d}.jpg", f"class{k:03d}", f"p{part}-{i}"))


def _make_shards(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(PARTS):
        with tarfile.open(folder / f"{number:03d}.tar", "w", format=tarfile.USTAR_FORMAT) as out:
            for i in range(ROWS // 100):
                for name, data in ((f"{i:06d}.jpg", b"x"), (f"{i:06d}.cls", str(i % CLASSES).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    out.addfile(info, io.BytesIO(data))
    for number in range(PARTS, 100):
        os.link(folder / f"{number % PARTS:03d}.tar", folder / f"{number:03d}.tar")


def measure(source: str, root: Path) -> list[tuple[str, float, float]]:
    """All stages of one source."""
    import numpy as np

    from finetune.data.folder import Checked, FolderImages
    from finetune.data.imageset import ImageInfo
    from finetune.data.listing import Listing
    from finetune.data.order import balanced_order, returns
    from finetune.data.sources import listed
    from finetune.data.splits import limit
    from finetune.data.splitting import split_sets
    from finetune.recipe import DataRecipe

    watch = Watch()
    path = {"folder": root / "tree", "table": root / "tree" / "labels.csv", "shards": root / "shards"}[source]
    recipe = DataRecipe(path=str(path))
    if source == "shards":
        watch("scan", lambda: listed(recipe))
    listing: Listing = watch("list", lambda: listed(recipe)[0])

    def images() -> FolderImages:
        classes = listing.class_order(row.label for row in listing.rows)
        number = {name: k for k, name in enumerate(classes)}
        info = ImageInfo(500, 375, "RGB")
        files = [Checked(row.at, row.name, hashlib.blake2b(row.name.encode(), digest_size=16).digest(), info)
                 for row in listing.rows]  # fmt: skip
        return FolderImages(files, np.array([number[row.label] for row in listing.rows]), classes)

    whole = watch("images", images)
    assert len(whole) == ROWS
    groups = [f"group {i % 100_000}" for i in range(ROWS)]
    bundle = watch("split", lambda: split_sets({"all": whole}, recipe, 0))
    watch("grouped", lambda: split_sets({"all": whole}, recipe, 0, groups={"all": groups}))
    folded = DataRecipe(path=str(path), folds=5, fold=1)
    watch("folds", lambda: split_sets({"all": whole}, folded, 0))

    def sample() -> Any:
        rng = np.random.default_rng(0)
        return rng.permutation(len(bundle.train)), returns(balanced_order(bundle.train.labels, rng)), \
            limit(bundle.train.labels, 100, 0)  # fmt: skip

    watch("sample", sample)
    return watch.rows


def machine() -> str:
    """What the figures come from."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--source", nargs="*", choices=SOURCES, default=SOURCES)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure is not None:  # the process of one source
        measure(asked.source[0], asked.measure)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for source in asked.source:
            if source == "shards" or not (root / "tree").exists():
                make(root, source)
            words = [sys.executable, "-m", "benchmarks.index", "--source", source, "--measure", str(root)]
            env = os.environ | {"FINETUNE_CACHE": str(root / "cache")}
            said = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
            if said.returncode:
                sys.exit(said.stderr)
            for line in said.stdout.splitlines():
                stage, seconds, peak = line.split(",")
                print(f"{source:8} {stage:8} {float(seconds):7.1f} s  {float(peak):6.0f} MB", flush=True)
                rows.append(
                    (source, stage, ROWS, seconds, peak, datetime.date.today().isoformat(), machine())
                )
    with asked.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, *rows])
    print(f"Wrote {asked.out}")


if __name__ == "__main__":
    main()
