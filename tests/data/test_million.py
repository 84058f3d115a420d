"""A million images: listing, splitting and sampling stay far below what would stop somebody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import hashlib, re, sys, time
import numpy as np
from finetune.data.folder import Checked, FolderImages
from finetune.data.imageset import ImageInfo
from finetune.data.order import balanced_order
from finetune.data.sources import listed
from finetune.data.splits import limit
from finetune.data.splitting import split_sets
from finetune.recipe import DataRecipe

began = time.process_time()
rows = listed(DataRecipe(path=sys.argv[1]))[0].rows
classes = sorted({row.label for row in rows})
number = {name: k for k, name in enumerate(classes)}
info = ImageInfo(500, 375, "RGB")
files = [Checked(row.at, f"{i}/{row.name}", hashlib.blake2b(str(i).encode(), digest_size=16).digest(), info)
         for i, row in enumerate(rows)]
labels = np.array([number[row.label] for row in rows])
images = FolderImages(files, labels, tuple(classes))
bundle = split_sets({"all": images}, DataRecipe(), 0)
assert len(bundle.train) + len(bundle.val) + len(bundle.test) == 1_000_000
assert len(bundle.test) == 150_000
balanced_order(bundle.train.labels, np.random.default_rng(0))
assert len(limit(bundle.train.labels, 100, 0)) == 100 * len(classes)
# Not getrusage: its peak is handed down from the process that started this one.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(time.process_time() - began, int(peak[1]) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_million_rows_of_a_table(tmp_path: Path) -> None:
    # A thousand files, each under a thousand names: a/../a is another name of a.
    for k in range(1000):
        (tmp_path / f"{k:03d}").mkdir()
    for i in range(1000):
        (tmp_path / "000" / f"{i:03d}.jpg").touch()
    table = tmp_path / "t.csv"
    with table.open("w") as file:
        file.write("path,label\n")
        for k in range(1000):
            file.writelines(f"{k:03d}/../000/{i:03d}.jpg,class{k % 100}\n" for i in range(1000))
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(table)], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    seconds, megabytes = map(float, said.stdout.split())
    assert megabytes < 1000  # half of it is usual
    assert seconds < 120  # CPU seconds; 15 are usual, and 30 promised on a free core
