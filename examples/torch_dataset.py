"""Train on any torch Dataset of (image, label), save, load, export to plain timm.

python examples/torch_dataset.py OUT
"""

import sys
from pathlib import Path

import timm
import torch

from finetune import Classifier


class Squares(torch.utils.data.Dataset):
    """Grey pictures with a bright square on the left (0) or on the right (1)."""

    def __len__(self):
        return 80

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 100, (3, 48, 48), generator=generator, dtype=torch.uint8)
        label = index % 2
        top = int(torch.randint(4, 28, (1,), generator=generator))
        image[:, top : top + 16, 4 + 24 * label : 20 + 24 * label] += 120
        return image, label


def main(out: str) -> None:
    model = Classifier(strategy="multistage", image_size=48).fit(Squares())
    print(f"test accuracy {model.result_['test']['accuracy']:.1%}, classes {model.classes_.tolist()}")

    model.save(Path(out) / "saved")
    again = Classifier.load(Path(out) / "saved")
    print("answers after loading:", again.predict([Squares()[0][0], Squares()[1][0]]).tolist())

    plain = Classifier(strategy="linear", image_size=48).fit(
        Squares()
    )  # plain timm reads a head on the last stage
    folder = plain.export(Path(out) / "exported")
    print("plain timm:", timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes, "classes")


if __name__ == "__main__":
    main(*sys.argv[1:])
