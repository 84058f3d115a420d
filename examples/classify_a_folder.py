"""Train on a folder of labelled images, look at the result, classify a few images.

python examples/classify_a_folder.py DATA [NEW_IMAGE ...]
"""

import sys

from finetune import Classifier


def main(data: str, *images: str) -> None:
    model = Classifier(strategy="auto").fit(data)

    test = model.result_["test"]
    low, high = test["interval"]
    chosen = model.result_["chosen"]
    print(f"{chosen}: {test['accuracy']:.1%} on {test['n']} test images ({low:.1%} to {high:.1%})")
    for reason in model.run_.decision["reasons"]:
        print(" -", reason)

    for image, label, shares in zip(images, model.predict(images), model.predict_proba(images), strict=True):
        print(f"{image}: {label} ({shares.max():.0%})")


if __name__ == "__main__":
    main(*sys.argv[1:])
