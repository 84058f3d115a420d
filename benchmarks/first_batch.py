"""Wall seconds from the command to the first batch through the network, and what of it is imports.

    python benchmarks/first_batch.py --data DIR [--repeats 5] [--out benchmarks/first_batch.csv]

DIR is a folder of labelled images; all of them are opened and checked before the first batch. `finetune run` is
started as a user starts it, stops at its first batch, and nothing is cached. The floor, measured in turns with
it: a Python that imports torch, timm and torchvision and sends one batch through the same network. Wall time needs
an idle machine: the table holds every repeat, and the least is the one to read.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = """
import importlib.abc, importlib.util, os, sys

class Watch(importlib.abc.MetaPathFinder):
    # Patches the network once it is imported; importing it here would change what is measured.
    def find_spec(self, name, path, target=None):
        if name != "finetune.zoo.backbone":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            plain = module.Backbone.taps
            def taps(self, x):
                answer = plain(self, x)
                if len(x) >= 16:
                    print(tuple(x.shape), flush=True)
                    os._exit(0)
                return answer
            module.Backbone.taps = taps
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Watch())
from finetune.cli import main
main()
"""

FLOOR = """
import timm, torch, torchvision
model = timm.create_model("resnet10t", num_classes=150).eval()
with torch.inference_mode():
    model(torch.randn(64, 3, 64, 64))
"""


def main() -> None:
    """Run the repeats and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/first_batch.csv"))
    args = parser.parse_args()
    files = sum(1 for path in args.data.rglob("*") if path.is_file())
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    rows = []
    for repeat in range(args.repeats):
        for what, seconds in (("floor", seconds_of(FLOOR)), ("auto", first_batch(args.data, "auto")),
                              ("linear", first_batch(args.data, "linear"))):  # fmt: skip
            rows.append((what, repeat, files, f"{seconds:.2f}", machine, datetime.date.today().isoformat()))
            print(*rows[-1], flush=True)
    with args.out.open("w", newline="") as file:
        command = f"python benchmarks/first_batch.py --data DIR --repeats {args.repeats}"
        file.write(f"# {command}; DIR: {files:,} files\n")
        writer = csv.writer(file)
        writer.writerow(("what", "repeat", "files", "wall_seconds", "machine", "date"))
        writer.writerows(rows)


def first_batch(data: Path, strategy: str) -> float:
    """Of ``finetune run --strategy STRATEGY``."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("run", "--data", str(data), "--strategy", strategy, "--out", f"{folder}/run")
        return seconds_of(COMMAND, *arguments, FINETUNE_CACHE=f"{folder}/cache")


def seconds_of(code: str, *arguments: str, **environment: str) -> float:
    """Wall time of a Python that runs ``code``. Raises RuntimeError where it fails."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(done.stderr)
    return seconds


if __name__ == "__main__":
    main()
