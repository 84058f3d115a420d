"""Weight files: found, verified and read without ever running what is in them."""

from __future__ import annotations

from torch import nn

from finetune.resources import weights_dir
from finetune.zoo.card import ModelCard


def load_weights(model: nn.Module, card: ModelCard) -> None:
    """Read the card's weights into the model."""
    from safetensors.torch import load_file

    model.load_state_dict({k: v.float() if v.is_floating_point() else v
                           for k, v in load_file(weights_dir() / str(card.weights)).items()})
