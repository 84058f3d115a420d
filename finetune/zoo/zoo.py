"""Names to cards: the curated zoo, the user's own zoo files, and any name of timm, torchvision or the hub.

Nothing here imports torch until a name is asked for that no zoo file holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune.errors import ConfigError, ZooError, did_you_mean, must
from finetune.recipe import read_yaml
from finetune.resources import zoo_file
from finetune.zoo.card import ModelCard

PREFIXES = ("timm:", "torchvision:", "hf-hub:", "hf_hub:", "local:")


_parsed: dict[tuple[str, int, int], dict[str, ModelCard]] = {}
"""Files that were read once and have not changed: a run asks for its card several times."""


def load_zoo(extra_files: Iterable[str | Path] = ()) -> dict[str, ModelCard]:
    """All cards: the shipped zoo.yaml, ``./zoo.yaml``, the files in $FINETUNE_ZOO and ``extra_files``.

    A later file's card replaces an earlier one of the same name. Raises ZooError with all problems of a file.
    """
    shipped = zoo_file()
    files = [Path("zoo.yaml"), *(Path(p) for p in os.environ.get("FINETUNE_ZOO", "").split(os.pathsep) if p)]
    if not files[0].is_file() or files[0].resolve() == shipped.resolve():
        files = files[1:]
    cards: dict[str, ModelCard] = {}
    for file in [shipped, *files, *(Path(f) for f in extra_files)]:
        cards.update(read_zoo(file.expanduser()))
    return cards


def read_zoo(file: Path) -> dict[str, ModelCard]:
    """The cards of one zoo file; weights of ``local`` cards are relative to it. Raises ZooError."""
    try:
        state = file.stat()
    except OSError as error:
        raise ZooError(f"Zoo file {str(file)!r} cannot be read: {error}.") from None
    key = (str(file.resolve()), state.st_mtime_ns, state.st_size)
    if key not in _parsed:
        _parsed[key] = _read_cards(file)
    return dict(_parsed[key])


def _read_cards(file: Path) -> dict[str, ModelCard]:
    tree = read_mapping(file)
    cards, problems = {}, []
    for name, fields in tree.items():
        if not isinstance(fields, Mapping):
            problems.append(must(f"{name}", "a mapping of card fields", repr(fields)))
            continue
        try:
            cards[str(name)] = _absolute(make_card({"name": str(name), **fields}, file.name), file)
        except ZooError as error:
            problems.append(str(error))
    if problems:
        raise ZooError("\n".join(problems))
    return cards


def read_mapping(file: Path) -> dict[str, Any]:
    """A YAML (or JSON) file's mapping. Raises ZooError."""
    try:
        return read_yaml(file, "Zoo file", "names to cards")
    except ConfigError as error:
        raise ZooError(str(error)) from None


def make_card(fields: Mapping[str, Any], source: str) -> ModelCard:
    """A validated card. Raises ZooError with all its problems at once, nearest field names offered."""
    try:
        return ModelCard.model_validate(dict(fields))
    except ValidationError as error:
        problems = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                problems.append(f"{key}: unknown field.{did_you_mean(key, ModelCard.model_fields)}")
            elif item["type"] == "missing":
                problems.append(f"{key}: missing")
            else:
                constraint = item["msg"].replace("Input should be", "must be")
                problems.append(f"{key}: {constraint}. Got {item['input']!r} instead.")
        raise ZooError(f"{source}, card {fields.get('name')!r}: {' · '.join(problems)}") from None


def card(name: str, extra_files: Iterable[str | Path] = ()) -> ModelCard:
    """The card of a name: curated, or made from what timm, torchvision, the hub or the file itself says.

    ``timm:NAME`` and ``torchvision:NAME`` choose a library. A bare name is looked up in the zoo,
    then timm, then torchvision. ``hf-hub:OWNER/NAME[@REVISION]``, ``local:FILE`` and paths are read. Raises
    ZooError, for an unknown name with the nearest ones of zoo, timm and torchvision.
    """
    zoo = load_zoo(extra_files)
    if name in zoo:
        return zoo[name]
    from finetune.zoo import sources

    if name.startswith(("hf-hub:", "hf_hub:")):
        return sources.hub_card(name)
    if name.startswith("local:") or _looks_like_path(name):
        from finetune.zoo.localfile import file_card

        return file_card(Path(name.removeprefix("local:")).expanduser(), name, zoo)
    if name.startswith("torchvision:"):
        found = sources.torchvision_card(name.removeprefix("torchvision:"), name)
    elif name.startswith("timm:"):
        found = sources.timm_card(name.removeprefix("timm:"), name)
    else:
        found = sources.timm_card(name, name) or sources.torchvision_card(name, name)
    if found is None:
        bare = name.split(":", 1)[1] if name.startswith(PREFIXES) else name
        known = [*zoo, *sources.timm_names(), *sources.torchvision_names()]
        raise ZooError(
            f"Unknown backbone {name!r}.{did_you_mean(bare, dict.fromkeys(known))} `finetune zoo ls` lists "
            "the curated ones; any timm or torchvision name, hf-hub:OWNER/NAME and weight files work too."
        )
    return found


def rows(zoo: Mapping[str, ModelCard] | None = None) -> list[dict[str, str]]:
    """One row a curated card, for printing."""
    cards = load_zoo() if zoo is None else zoo
    return [
        {
            "name": c.name,
            "source": c.source,
            "params": _number(c.parameters, "M"),
            "macs": _number(c.macs, "G"),
            "size": str(c.size),
            "top-1": _number(c.accuracy, ""),
            "data": c.source_dataset,
            "licence": c.licence,
            "summary": c.summary,
        }
        for c in cards.values()
    ]


def details(chosen: ModelCard) -> list[tuple[str, str]]:
    """(label, value) of everything a card says, for printing."""
    c = chosen
    top1 = "not published" if c.accuracy is None else f"{c.accuracy:g} % at {c.accuracy_at or c.size} px"
    arguments = ", ".join(f"{k}={v!r}" for k, v in c.args.items())
    return [
        ("name", c.name),
        ("summary", c.summary or "-"),
        ("source", f"{c.source}{': ' + c.weights if c.weights else ''}"),
        ("architecture", f"{c.arch}({arguments})" if arguments else c.arch),
        (
            "trained on",
            f"{c.source_dataset}, {c.source_classes} classes" if c.source_classes else c.source_dataset,
        ),
        ("published top-1", top1),
        ("parameters", _number(c.parameters, " million") or "unknown"),
        ("multiply-adds", _number(c.macs, " billion an image") or "unknown"),
        ("input", f"{c.size} x {c.size} px, {c.interpolation}, crop {c.crop_pct:g} ({c.crop_mode})"),
        ("mean, std", f"{c.mean}, {c.std}"),
        ("pretraining", f"{c.source_optimizer}, peak LR {c.source_lr:g} at batch {c.source_batch}"),
        ("licence", c.licence),
        ("sha256", c.sha256 or "by the source's own record"),
        ("paper", c.paper or "-"),
    ]


def _absolute(chosen: ModelCard, file: Path) -> ModelCard:
    if chosen.source != "local" or chosen.weights is None or Path(chosen.weights).expanduser().is_absolute():
        return chosen
    return chosen.model_copy(update={"weights": str(file.resolve().parent / chosen.weights)})


def _looks_like_path(name: str) -> bool:
    return name.endswith((".safetensors", ".pth", ".pt", ".bin")) or (
        ("/" in name or os.sep in name or name in (".", "..")) and not name.startswith(PREFIXES)
    )


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g}{unit}"
