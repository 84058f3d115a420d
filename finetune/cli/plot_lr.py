"""``finetune recipe plot-lr``."""

from __future__ import annotations

import math
from pathlib import Path

import click

from finetune.cli import screen

_HEADS = ("linear", "multistage")
_IMAGES = 1000
_POINTS = 4000
"""At most about so many steps are looked at."""


@click.command()
@click.argument("recipe", metavar="RECIPE")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--steps", type=click.IntRange(1), metavar="N", help="Optimizer steps of the phase.")
@click.option(
    "--images",
    type=click.IntRange(1),
    metavar="N",
    help=f"Training images; default {_IMAGES:,}, for a guess.",
)
@click.option("--png", type=click.Path(path_type=Path), metavar="FILE", help="Draw it into FILE too.")
def plot_lr(
    recipe: str, overrides: tuple[str, ...], steps: int | None, images: int | None, png: Path | None
) -> None:
    """Show the learning rate over the steps of RECIPE (a file or a shipped name)."""
    from finetune.cli.run import asked_for
    from finetune.errors import ConfigError, must
    from finetune.report.lr_curve import as_picture, as_text
    from finetune.solvers import SCHEDULES
    from finetune.strategy.schedule import batches, default_epochs, warmup_share
    from finetune.training.averaged_schedule import averaged_schedule, cycle_ends
    from finetune.training.schedule import warmup_steps

    if steps is not None and images is not None:
        raise ConfigError(must("--steps and --images", "given one at a time", "both"))
    asked = asked_for(overrides, data=None, recipe=recipe)
    if asked.strategy in _HEADS:
        remedy = "A head is solved and has no learning rate; strategy=partial and others have one."
        raise ConfigError(must("strategy", "one that trains step by step", repr(asked.strategy), remedy))
    train = asked.train
    length = f"{steps} steps"
    epochs = min(train.epochs or 20, steps or 20)
    if steps is None:
        n = images or _IMAGES
        batch = math.prod(batches(train, n))
        epochs = max(train.epochs or default_epochs(n, batch, train.epochs_factor), train.snapshots or 1)
        steps = epochs * math.ceil(n / batch)
        length = f"{epochs} epochs of {n:,} images in steps of {batch}: {steps:,} steps"
    warmup, per_epoch = warmup_steps(warmup_share(train), steps), max(1, steps // epochs)
    usual = SCHEDULES.get(train.schedule)(steps, warmup, **train.schedule_args)
    factor = averaged_schedule(train, usual, epochs, per_epoch, warmup_share(train))
    cycles = () if train.snapshots is None else cycle_ends(epochs, train.snapshots)
    if cycles:
        warmup = warmup_steps(warmup_share(train), cycles[0] * per_epoch)
    name = f"{len(cycles)} cosines" if cycles else train.schedule
    given = None if train.lr == "auto" else train.lr
    peak = given or 1.0
    shown = sorted({*range(0, steps, max(1, steps // _POINTS)), max(0, warmup - 1), steps - 1})
    rates = [peak * factor(step) for step in shown]

    screen.say(f"{name}, {length}")
    screen.say()
    click.echo(as_text(shown, rates, steps))
    screen.say()
    highest = rates.index(max(rates))
    unit = "" if given else " of the peak"
    screen.bullet(
        f"First step {rates[0]:.3g}{unit}, highest {rates[highest]:.3g} at step {shown[highest]:,}, "
        f"last {rates[-1]:.3g}; warm-up {warmup:,} step{'' if warmup == 1 else 's'}."
    )
    if train.lr == "auto":
        screen.bullet("The peak is found by a range test when the phase begins.")
    elif given is None:
        screen.bullet(
            "The peak follows from the backbone: usually a tenth of its source's rate. train.lr=... sets it."
        )
    if train.swa is not None or train.snapshots is not None:
        kept = f"{len(cycles)} snapshots" if cycles else "swa, which averages the last epochs"
        screen.bullet(f"As it is with {kept}.")
    if train.schedule == "plateau":
        screen.bullet("Drawn without a plateau: the factor falls as the validation numbers say.")
    if train.optimizer == "adam-then-sgd":
        screen.bullet(
            f"AdamW until step {round(train.switch * steps):,}; then SGD at a hundred times these rates."
        )
    if png is not None:
        from finetune.files import atomic_write_bytes

        label = "learning rate" if given else "share of the peak"
        atomic_write_bytes(png, as_picture(shown, rates, warmup, f"{name}, {steps:,} steps", label))
        screen.say_long(f"Drawn in {png}.")
