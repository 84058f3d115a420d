"""The zoo: zoo.yaml and everything else that has a name."""

from __future__ import annotations

from finetune.errors import ConfigError, ZooError
from finetune.recipe import read_yaml
from finetune.resources import zoo_file
from finetune.zoo.card import ModelCard


def load_zoo() -> dict[str, ModelCard]:
    """The curated cards by name."""
    try:
        tree = read_yaml(zoo_file())
    except ConfigError as error:
        raise ZooError(str(error)) from None
    return {name: ModelCard(name=name, **fields) for name, fields in tree.items()}


def card(name: str) -> ModelCard:
    """The card of a name."""
    zoo = load_zoo()
    return zoo[name] if name in zoo else ModelCard(name=name, arch=name, source_classes=1000)
