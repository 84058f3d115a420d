"""``finetune strategy ls | advise``."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli import screen
from finetune.cli.app import LazyGroup

_LAZY = {
    "ls": ("finetune.cli.strategy:ls", "The strategies, a line each."),
    "advise": ("finetune.cli.strategy:advise", "Decide only: explain, write the plan, train nothing."),
}


@click.group(cls=LazyGroup, lazy=_LAZY)
def strategy() -> None:
    """What can be done with a pretrained network, and which of it suits your images."""


@click.command()
def ls() -> None:
    """The strategies, a line each."""
    from finetune.strategy import STRATEGIES

    rows = [(entry.name, entry.summary) for entry in STRATEGIES]
    screen.show(screen.table(("strategy", "what it does"), rows, shrink=1))
    screen.say_long("\nWhich one suits your images: finetune strategy advise --data DIR")


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", metavar="DIR", help="Folder with one sub-folder per class.")
@click.option(
    "--backbone", metavar="NAME", help="Any name of `finetune zoo ls`, timm or torchvision; or a file."
)
@click.option("--recipe", metavar="FILE", help="A recipe file, or a name of `finetune recipe ls`.")
@click.option("--seed", type=int, metavar="N", help="Default 0.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write the plan to; default: plan.yaml, or the "
    "next free plan-N.yaml."
)  # fmt: skip
@click.option(
    "--explain",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: one document on stdout, everything else on stderr.",
)
def advise(
    overrides: tuple[str, ...],
    data: str | None,
    backbone: str | None,
    recipe: str | None,
    seed: int | None,
    out: Path | None,
    explain: str,
) -> None:
    """Look at the images in DIR and decide what to do with them; train nothing.

    The explanation is printed and the plan written as YAML, which `finetune run --plan FILE` carries out as it
    is or as you edit it. Any recipe key can follow as KEY=VALUE; strategy=NAME explains another strategy.
    """
    from finetune.cli.run import asked_for

    resolved = asked_for(overrides, data=data, backbone=backbone, recipe=recipe, seed=seed)
    target = _free(out)

    import shlex

    from finetune.data import ahead

    ahead.begin(resolved.data)  # in a second process, while torch is imported here
    from finetune.advice import advised
    from finetune.cli.story import Story
    from finetune.files import atomic_write_text

    with Story(json=explain == "json") as story:
        found = advised(resolved, listener=story)
        again = _again(data, backbone, recipe, target)
        title = (
            f"What finetune would do with {resolved.data.path} and the backbone {resolved.backbone}.\n"
            f"Carry it out, edited or as it is: {again}"
        )
        atomic_write_text(target, found.plan.annotated_yaml(title, found.stage_names))
        screen.say_long(f"Wrote the plan to {shlex.quote(str(target))}; nothing was trained.")
        screen.say_long(f"Next: {again}")


def _free(out: Path | None) -> Path:
    """Where the plan goes. Nothing is overwritten; that shows before anything is computed."""
    from finetune.errors import ConfigError, must

    if out is None:
        return next(
            p for i in range(1, 10_000) if not (p := Path(f"plan{'' if i == 1 else f'-{i}'}.yaml")).exists()
        )
    if out.exists():
        raise ConfigError(must("--out", "a file that does not exist", repr(str(out)), "Choose another name."))
    return out


def _again(data: str | None, backbone: str | None, recipe: str | None, target: Path) -> str:
    """The command that carries the plan out on the same images and backbone."""
    import shlex

    words = ["finetune", "run"]
    for option, value in (("--data", data), ("--backbone", backbone), ("--recipe", recipe)):
        words += [] if value is None else [option, shlex.quote(value)]
    return " ".join([*words, "--plan", shlex.quote(str(target))])
