"""What makes a row another row: the weights, the recipe; and what it should say beside: machine and commit."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.regret.recipes import DEFAULTS
from finetune.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from finetune.zoo.backbone import Backbone

_LEFT_OUT = {"name", "out", "seed", "strategy", "backbone", "device", "threads"}
"""Recipe keys that are columns of their own, or change no figure but the seconds."""
_NOT_IN_DATA = {"path", "limit_per_class", "workers"}
_NOT_IN_TRAIN = {"save_every", "log_every", "preflight"}


def network_name(backbone: Backbone) -> str:
    """Name and the first digits of the weights' digest: other weights are another backbone."""
    digest = hashlib.sha256()
    head = {name for name, _ in backbone.head_parameters()}
    for name, tensor in sorted(backbone.state_dict().items()):
        if name not in head and not name.startswith("head."):
            digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return f"{Path(backbone.card.name).stem}@{digest.hexdigest()[:8]}"


def digest_of(recipe: Recipe) -> str:
    """Of what the recipe says about data, probes and training where it is not the default.

    So a new recipe key makes no old row strange; a default that changes does not show here, but in ``code``.
    """
    return hashlib.sha256(json.dumps(_kept(recipe), sort_keys=True).encode()).hexdigest()[:8]


def keys_of(recipe: Recipe) -> str:
    """What the digest is made from, as --set takes it.

    >>> keys_of(Recipe(backbone="embedded").override("train.refit=false", "seed=3"))
    'train.refit=false'
    """
    return " ".join(_flat(_kept(recipe))) or DEFAULTS


def _kept(recipe: Recipe) -> dict[str, Any]:
    tree = recipe.model_dump(mode="json", exclude_defaults=True)
    kept = {key: value for key, value in tree.items() if key not in _LEFT_OUT}
    for section, apart in (("data", _NOT_IN_DATA), ("train", _NOT_IN_TRAIN)):
        kept[section] = {key: value for key, value in kept.get(section, {}).items() if key not in apart}
    return kept


def _flat(tree: Mapping[str, Any], above: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += _flat(value, f"{above}{key}.")
        else:
            found.append(f"{above}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return found


def machine(device: torch.device) -> str:
    """What the seconds were measured on."""
    from finetune.runtime import available_cores

    gpu = "no GPU" if device.type == "cpu" else device.type
    if device.type == "cuda":
        import torch

        gpu = torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {available_cores()} cores, {gpu}"


def commit() -> str:
    """Of the checkout, with a + where files differ from it; empty outside one."""
    command = ["git", "describe", "--always", "--dirty=+"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
