"""What a linear probe costs, as whole-process CPU seconds over the floor.

    python benchmarks/probe_speed.py --data DIR [--repeats 3] [--out benchmarks/probe_speed.csv]

DIR holds train/<class>/* and test/<class>/*. The floor is each image through the bare fp32 network once (a timm
resnet18 at 64 px, tensors in memory, one thread), measured in the same run; everything else is the CPU time of a
process from its start to its end, children included: imports, decoding, features, cross-validated solver, metrics,
figures and files. Absolute seconds mean nothing on a shared machine; the ratio does.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

FLOOR = """
import sys, time, torch, timm
torch.set_num_threads(1)
n, batch = int(sys.argv[1]), 128
model = timm.create_model("resnet18", num_classes=25).eval()
images = torch.randn(batch, 3, 64, 64)
with torch.inference_mode():
    model(images)
    began = time.process_time()
    for start in range(0, n, batch):
        model(images[: min(batch, n - start)])
    print(time.process_time() - began)
"""

PLAIN = """
import sys, torch, timm
from torch.utils.data import DataLoader
from torchvision import datasets, transforms as T
torch.set_num_threads(1)
root, epochs = sys.argv[1], int(sys.argv[2])
norm = T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
crop = [T.RandomResizedCrop(64), T.RandomHorizontalFlip(), T.ToTensor(), norm]
train = datasets.ImageFolder(root + "/train", T.Compose(crop))
test = datasets.ImageFolder(root + "/test", T.Compose([T.Resize(64), T.CenterCrop(64), T.ToTensor(), norm]))
model = timm.create_model("resnet18", num_classes=len(train.classes))
for p in model.parameters():
    p.requires_grad_(False)
for p in model.fc.parameters():
    p.requires_grad_(True)
optimizer = torch.optim.SGD(model.fc.parameters(), 0.1, momentum=0.9)
for epoch in range(epochs):
    model.train()
    for x, y in DataLoader(train, 64, shuffle=True, num_workers=2):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    model.eval()
    with torch.inference_mode():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in DataLoader(test, 64, num_workers=2))
print(right / len(test))
"""


def cpu_seconds(command: list[str], **environment: str) -> tuple[float, str]:
    """CPU seconds of the whole process tree, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **environment}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def count(folder: Path) -> int:
    return sum(1 for p in folder.rglob("*") if p.is_file())


def measure(data: Path, images: int) -> dict[str, float]:
    """One round: the floor, ours with an empty and with a warm feature cache, and a plain loop of three epochs."""
    floor = float(cpu_seconds([sys.executable, "-c", FLOOR, str(images)])[1])
    seconds = {"floor": floor}
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("finetune, empty cache", "finetune, warm cache"):
            command = [sys.executable, "-m", "finetune", "run", "--data", str(data), "--strategy", "linear",
                       "--backbone", "resnet18", "--out", f"{scratch}/{name}", "pretrained=false",
                       "data.image_size=64", "threads=1"]  # fmt: skip
            seconds[name] = cpu_seconds(command, FINETUNE_CACHE=f"{scratch}/cache")[0]
    seconds["plain loop, 3 epochs"] = cpu_seconds([sys.executable, "-c", PLAIN, str(data), "3"])[0]
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/probe_speed.csv"))
    options = parser.parse_args()
    images = count(options.data)
    rows = []
    for repeat in range(options.repeats):
        seconds = measure(options.data, images)
        for name, value in seconds.items():
            rows.append({"what": name, "repeat": repeat, "images": images, "cpu_seconds": round(value, 2),
                         "over_floor": round(value / seconds["floor"], 2),
                         "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                         "date": datetime.date.today().isoformat()})  # fmt: skip
            print(f"{name:26} {value:7.2f} s  {value / seconds['floor']:5.2f} x floor", flush=True)
    with options.out.open("w", newline="") as file:
        file.write(f"# python benchmarks/probe_speed.py --repeats {options.repeats}\n")
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
