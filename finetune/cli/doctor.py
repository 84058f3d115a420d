"""``finetune doctor``: what a bug report needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

from finetune.cli import screen


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the JSON to this file.")
def doctor(as_json: bool, out: Path | None) -> None:
    """Versions, device, folders and free space; says what is amiss."""
    facts = collect()
    if out is not None:
        from finetune.files import atomic_write_json

        atomic_write_json(out, facts)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    rows: list[tuple[str, object]] = [
        ("finetune", facts["packages"].get("finetune")),
        ("python", facts["python"]),
        ("platform", facts["platform"]),
    ]
    rows += [(name, version) for name, version in facts["packages"].items() if name != "finetune"]
    rows += [
        ("device", facts["device"]),
        ("cores", f"{facts['cores']}, {facts['idle_cores']} idle now"),
        ("cache", f"{facts['cache']} ({facts['cache_free_gb']:.1f} GB free)"),
        ("zoo", f"{facts['zoo_cards']} cards"),
        ("embedded weights", facts["embedded_weights"]),
    ]
    screen.show(screen.table(("what", "found"), rows, shrink=1))
    screen.say()
    for problem in facts["problems"]:
        screen.say(f"Problem: {problem}", style="yellow")
    if not facts["problems"]:
        screen.say("Everything finetune needs is here.", style="green")


def collect() -> dict[str, Any]:
    """The facts as plain values; ``problems`` lists what would stop a run."""
    from finetune import resources, runtime

    device = runtime.choose_device("auto")
    facts: dict[str, Any] = dict(runtime.environment(device))
    cores = runtime.available_cores()
    cache = runtime.cache_dir()
    existing = next(p for p in (cache, *cache.parents) if p.exists())
    weights = resources.weights_dir() / "embedded.safetensors"
    problems = [
        f"{name} is not installed. Run: pip install {name}"
        for name, version in facts["packages"].items()
        if version == "not installed" and name != "finetune"
    ]
    free = shutil.disk_usage(existing).free / 1e9
    if free < 1:
        problems.append(f"Only {free:.1f} GB are free at {cache}; set FINETUNE_CACHE to another disk.")
    if not weights.exists():
        problems.append("The embedded weights are missing; reinstall finetune or name another --backbone.")
    facts.update(
        idle_cores=max(0, round(cores - runtime.busy_cores())),
        cache=str(cache),
        cache_free_gb=free,
        zoo_cards=_count_cards(problems),
        embedded_weights="present" if weights.exists() else "missing",
        problems=problems,
    )
    return facts


def _count_cards(problems: list[str]) -> int:
    from finetune.errors import FinetuneError
    from finetune.zoo.zoo import load_zoo

    try:
        return len(load_zoo())
    except FinetuneError as error:
        problems.append(str(error))
        return 0
