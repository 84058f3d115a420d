"""How many wrong labels `finetune data check` finds: 5% of the labels are flipped, and the suspects compared.

    python benchmarks/label_noise.py --root DIR [--seeds 3] [--out benchmarks/label_noise.csv]

DIR holds unpacked data sets. Labels that were wrong before count against the precision: it is a lower bound.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
from pathlib import Path

SETS = (("flowers_thumb", None), ("hymenoptera", None), ("gtsrb", None), ("brain_mri", None), ("mnist_png", 200),
        ("tinyimagenet_target25", 100))  # fmt: skip
"""Folder, and images a class at most."""

SHARE = 0.05


def main() -> None:
    """Measure and write the table."""
    import numpy as np

    from finetune.audit.labels import SCORE, held_out, suspects
    from finetune.data.load import read_folder
    from finetune.features.extract import extract
    from finetune.recipe import DataRecipe
    from finetune.zoo.create import create_backbone

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/label_noise.csv"))
    options = parser.parse_args()
    backbone = create_backbone(options.backbone, pretrained=True).eval()
    rows = []
    for name, limit in SETS:
        read = read_folder(DataRecipe(path=str(options.root / name)))
        images = read.given["all"] if "all" in read.given else read.given["train"]
        if limit is not None:
            kept = [np.flatnonzero(images.labels == k)[:limit] for k in range(len(images.classes))]
            images = images.subset(np.concatenate(kept))
        features, classes = extract(backbone, images, message=lambda text: None), len(images.classes)
        for seed in range(options.seeds):
            rng = np.random.default_rng(seed)
            labels = features.labels.copy()
            wrong = rng.permutation(len(labels))[: round(SHARE * len(labels))]
            labels[wrong] = (labels[wrong] + rng.integers(1, classes, len(wrong))) % classes
            log_p = held_out(features.taps, labels, classes)
            assert log_p is not None
            told = [s.index for s in suspects(log_p, labels) if s.score >= SCORE]
            first = [s.index for s in suspects(log_p, labels)][: len(wrong)]
            right = len(set(told) & set(wrong.tolist()))
            rows.append({
                "data": name, "images": len(labels), "classes": classes, "backbone": options.backbone, "seed": seed,
                "held_out_accuracy": round(float((log_p.argmax(axis=1) == features.labels).mean()), 4),
                "planted": len(wrong), "suspects": len(told), "precision": round(right / max(1, len(told)), 3),
                "recall": round(right / len(wrong), 3),
                "precision_of_as_many": round(len(set(first) & set(wrong.tolist())) / max(1, len(first)), 3),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores", "date": datetime.date.today().isoformat(),
            })  # fmt: skip
            print(*rows[-1].values(), flush=True)
    with options.out.open("w", newline="") as file:
        file.write(
            f"# python benchmarks/label_noise.py --root DIR --seeds {options.seeds}; 5% of the labels flipped\n"
        )
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
