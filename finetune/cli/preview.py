"""``finetune data preview``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", required=True, metavar="DIR", help="A folder of images, or a table.")
@click.option(
    "--policy",
    metavar="NAME",
    help="Augmentation policy, or operations joined by +; default: the policy that a run would take.",
)
@click.option("--out", default="preview.png", show_default=True, type=click.Path(path_type=Path), metavar="FILE",
              help="The picture: .png, .jpg or .webp.")  # fmt: skip
@click.option("--backbone", metavar="NAME", help="Whose input size and preprocessing are used.")
@click.option(
    "--images", default=6, show_default=True, type=click.IntRange(1, 64), help="How many, a row each."
)
@click.option("--samples", default=4, show_default=True, type=click.IntRange(1, 16),
              help="Of each image in each form: from the loader, and from a batch on the device.")  # fmt: skip
def preview(
    overrides: tuple[str, ...], data: str, policy: str | None, out: Path, backbone: str | None, images: int,
    samples: int,
) -> None:  # fmt: skip
    """Draw originals beside augmented samples, before anything is trained: would you still know what it is?

    Recipe keys can follow as KEY=VALUE, for example seed=3 train.avoid=[flip] data.image_size=96.
    """
    from finetune.cli.run import asked_for
    from finetune.data import AUGMENTATIONS
    from finetune.errors import ConfigError, must

    kinds = (".png", ".jpg", ".jpeg", ".webp")
    if out.suffix.lower() not in kinds:
        raise ConfigError(must("--out", f"a file that ends in {', '.join(kinds)}", repr(str(out))))
    if policy is not None:
        AUGMENTATIONS.entry(policy)
    recipe = asked_for(overrides, data=data, backbone=backbone, recipe=None)

    from finetune.data import ahead

    ahead.begin(recipe.data)
    from dataclasses import replace

    from finetune.data.load import load_data
    from finetune.data.policies import policy_name
    from finetune.data.statistics import normalised
    from finetune.data.threads import worker_count
    from finetune.errors import DataError
    from finetune.report.contact_sheet import contact_sheet
    from finetune.strategy.schedule import default_augment
    from finetune.zoo.zoo import card

    prep = card(recipe.backbone).preprocessing
    if recipe.data.image_size:
        prep = replace(prep, size=recipe.data.image_size)
    train = load_data(recipe.data, recipe.seed).train
    if recipe.data.normalise != "backbone":  # what has no pixels is filled with the mean colour
        prep = normalised(train, prep, recipe.data.normalise, worker_count(recipe.data.workers))
    name = policy_name(policy or recipe.train.augment or default_augment(len(train)), recipe.train.crop)
    sheet = contact_sheet(
        train, prep, name, rows=images, samples=samples, seed=recipe.seed, avoid=recipe.train.avoid or ()
    )
    try:
        sheet.save(out)
    except OSError as error:
        raise DataError(
            must("--out", "a file that can be written", f"{str(out)!r} ({error.strerror})")
        ) from None
    click.echo(f"Wrote {out}: {name}, {min(images, len(train))} images of {len(train):,}")
