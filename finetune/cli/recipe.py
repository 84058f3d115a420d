"""``finetune recipe ls | show | cp | validate | plot-lr``."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli import screen
from finetune.cli.app import LazyGroup

_LAZY = {
    "ls": ("finetune.cli.recipe:ls", "The shipped recipes and what each is for."),
    "show": ("finetune.cli.recipe:show", "Print a recipe."),
    "cp": ("finetune.cli.recipe:cp", "Copy a recipe to a file of your own."),
    "validate": ("finetune.cli.recipe:validate", "Check recipe files; all problems at once."),
    "plot-lr": ("finetune.cli.plot_lr:plot_lr", "Show the learning rate over the steps of a recipe."),
}


@click.group(cls=LazyGroup, lazy=_LAZY)
def recipe() -> None:
    """The shipped recipes: YAML files that say what to do."""


@click.command()
def ls() -> None:
    """The shipped recipes and what each is for."""
    from finetune.cookbook import recipe_header, shipped_recipes

    rows = [(name, recipe_header(path)[1]) for name, path in shipped_recipes().items()]
    screen.show(screen.table(("recipe", "for"), rows, shrink=1))
    screen.say(
        "\nRead one with `finetune recipe show NAME`, run it with `finetune run --recipe NAME --data DIR`."
    )


@click.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the recipe NAME (a shipped one or a file)."""
    from finetune.cookbook import find_recipe
    from finetune.recipe import read_yaml

    path = find_recipe(name)
    read_yaml(path)  # one message for a missing or broken file
    click.echo(path.read_text(encoding="utf-8"), nl=False)


@click.command()
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path))
def cp(name: str, target: Path) -> None:
    """Copy the recipe NAME to TARGET, a file or a folder. Nothing is overwritten."""
    from finetune.cookbook import find_recipe
    from finetune.errors import ConfigError, must
    from finetune.files import atomic_write_bytes
    from finetune.recipe import read_yaml

    source = find_recipe(name)
    read_yaml(source)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise ConfigError(
            must("The target", "a file that does not exist", repr(str(target)), "Choose another name.")
        )
    atomic_write_bytes(target, source.read_bytes())
    screen.say_long(f"Wrote {target}. Edit it, then: finetune run --recipe {target} --data DIR")


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="FILE...")
def validate(names: tuple[str, ...]) -> None:
    """Check each recipe FILE (or shipped name); exit code 2 if any has a problem."""
    from finetune.cookbook import check_recipe
    from finetune.errors import ConfigError

    problems = []
    for name in names:
        try:
            check_recipe(name)
        except ConfigError as error:
            problems.append(str(error))
        else:
            screen.say_long(f"{name}: ok")
    if problems:
        raise ConfigError("\n".join(problems))
