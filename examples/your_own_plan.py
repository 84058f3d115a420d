"""Write a plan by hand: two phases that no shipped strategy has, carried out by the same loop.

python examples/your_own_plan.py DATA OUT
"""

import sys
from pathlib import Path

from finetune import Recipe, create_backbone
from finetune.data.load import load_data
from finetune.evaluation.metrics import score
from finetune.evaluation.predict import predict_images
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.training.execute import execute


def main(data: str, out: str) -> None:
    recipe = Recipe.from_mapping({"data": {"path": data, "image_size": 32}, "train": {"precision": "fp32"}})
    images = load_data(recipe.data, recipe.seed)
    backbone = create_backbone(recipe.backbone, num_classes=len(images.classes), image_size=32)
    last = backbone.num_stages - 1
    plan = Plan(
        strategy="mine",
        phases=(
            ProbePhase(name="head by ridge regression", candidates=((last,),), solver="ridge"),
            GradientPhase(
                name="two stages", train_from=last - 1, epochs=2, lr=0.005, head_lr=0.02, augment="light"
            ),
        ),
    )
    Path(out).mkdir(parents=True, exist_ok=True)
    trained = execute(plan, backbone, images, recipe, out)
    scores = score(images.test.labels, predict_images(trained, images.test), images.classes)
    print(f"test accuracy {scores.accuracy:.1%} on {scores.n} images")


if __name__ == "__main__":
    main(*sys.argv[1:])
