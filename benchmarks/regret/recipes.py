"""What the recipe digests of a ledger stand for: a small YAML file beside it, digest -> recipe keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from finetune.errors import RunError, must
from finetune.files import atomic_write_text

_ABOVE = "# Digest in the column `recipe` -> the keys that the recipe sets, as --set takes them.\n"
DEFAULTS = "nothing but defaults"


def recipes_path(csv: Path) -> Path:
    """Where the recipes of a ledger are kept.

    >>> recipes_path(Path("rows.csv")).name
    'rows.recipes.yaml'
    """
    return csv.with_suffix(".recipes.yaml")


def read_recipes(csvs: Iterable[Path]) -> dict[str, str]:
    """Digest -> keys over several ledgers; those without a file add nothing. Raises RunError for another file."""
    found: dict[str, str] = {}
    for path in map(recipes_path, csvs):
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except yaml.YAMLError:
            tree = None
        if not isinstance(tree, dict) or not all(isinstance(keys, str) for keys in tree.values()):
            raise RunError(must(str(path), "a mapping from recipe digests to their keys", "another file"))
        # Quoted or not: a digest of digits alone is a number to YAML.
        found |= {str(digest): keys for digest, keys in tree.items()}
    return found


def keep_recipe(csv: Path, digest: str, keys: str) -> None:
    """Add one to the ledger's file, sorted; the file is untouched where it has it already. Raises RunError."""
    kept = read_recipes([csv])
    if kept.get(digest) != keys:
        body = yaml.safe_dump({**kept, digest: keys}, sort_keys=True, width=1000)
        atomic_write_text(recipes_path(csv), _ABOVE + body)


def told(digest: str, keys: Mapping[str, str]) -> str:
    """The digest with what it stands for, where that was kept.

    >>> told("ab", {"ab": "train.lr=1"}), told("cd", {})
    ('ab (`train.lr=1`)', 'cd (its keys were not kept)')
    """
    if digest in keys:
        return f"{digest} ({f'`{keys[digest]}`' if keys[digest] != DEFAULTS else DEFAULTS})"
    # Whole data sets come with the settings themselves in the digest's place.
    return f"`{digest}`" if "=" in digest else f"{digest} (its keys were not kept)"
