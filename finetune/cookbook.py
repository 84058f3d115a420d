"""The shipped recipes: found by glob, named by their file, checked by the model they are written for."""

from __future__ import annotations

from pathlib import Path

from finetune.errors import ConfigError, did_you_mean
from finetune.recipe import Recipe, read_yaml
from finetune.resources import recipes_dir


def shipped_recipes() -> dict[str, Path]:
    """Name to file; recipes in sub-folders are named ``folder/name``."""
    root = recipes_dir()
    files = sorted(root.rglob("*.yaml"), key=lambda p: (len(p.relative_to(root).parts), p))
    return {str(p.relative_to(root).with_suffix("").as_posix()): p for p in files}


def find_recipe(name: str) -> Path:
    """The file of a shipped name, or the file itself. Raises ConfigError with the nearest names."""
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    if Path(name).suffix in {".yaml", ".yml"} or ("/" in name and name.split("/")[0] not in {"pretrain"}):
        return Path(name)  # reading it says that it does not exist
    raise ConfigError(
        f"There is no recipe {name!r}.{did_you_mean(name, shipped)} `finetune recipe ls` lists them."
    )


def recipe_header(path: Path) -> tuple[str, str]:
    """What a recipe's opening comment says: the command that runs it, and what it is for."""
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# ").strip())
    command = next((line for line in comment if line.startswith("finetune ")), "")
    return command, next((line for line in comment if not line.startswith("finetune ")), "")


def check_recipe(name: str) -> None:
    """Validate a recipe or pretraining recipe. Raises ConfigError listing all problems."""
    path = find_recipe(name)
    tree = read_yaml(path)
    if "arch" in tree:  # only a pretraining recipe builds a network from its architecture
        from finetune.pretraining.recipe import PretrainRecipe

        PretrainRecipe.load(path)
        return
    from finetune.strategy import STRATEGIES

    Recipe.from_mapping(tree, path.name, STRATEGIES.names())
