"""``finetune lr-find`` and ``finetune preflight``: up to the first step of training, and no further."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from finetune.cli import screen
from finetune.cli.run import asked_for

if TYPE_CHECKING:
    from finetune.recipe import Recipe
    from finetune.training.lr_find import Found

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
    click.option("--data", metavar="DIR", help="Folder with one sub-folder per class."),
    click.option("--strategy", metavar="NAME", help="Whose plan; default: the recipe's, or auto."),
    click.option(
        "--backbone", metavar="NAME", help="Any name of `finetune zoo ls`, timm or torchvision; or a file."
    ),
    click.option("--recipe", metavar="FILE", help="A recipe file, or a name of `finetune recipe ls`."),
    click.option("--plan", metavar="FILE", help="A plan (finetune strategy advise) instead of a strategy's."),
    click.option("--seed", type=int, metavar="N", help="Default 0."),
    click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, all else on stderr."),
)


def _options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command("lr-find")
@_options
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Write lr-find.json and lr-find.png there."
)
def lr_find(
    overrides: tuple[str, ...], data: str | None, strategy: str | None, backbone: str | None,
    recipe: str | None, plan: str | None, seed: int | None, as_json: bool, out: Path | None,
) -> None:  # fmt: skip
    """Suggest a learning rate: 100 steps on a copy of the network, at rates that grow from 1e-7 to 10.

    The test is that of the first phase that the strategy trains by gradient steps; its batches, augmentation
    and ratios between learning rates are training's. Nothing is kept. train.lr=auto does the same in a run.
    """
    resolved = _asked(overrides, data, strategy, backbone, recipe, plan, seed)
    from finetune.data import ahead

    ahead.begin(resolved.data)  # in a second process, while torch is imported here
    from finetune.cli.story import Story
    from finetune.rehearsal import find_lr

    with Story(json=as_json) as story:
        found = find_lr(resolved, plan=plan, listener=story)
    if out is not None:
        from finetune.files import atomic_write_bytes, atomic_write_json
        from finetune.report.rates import range_test

        out.mkdir(parents=True, exist_ok=True)
        atomic_write_json(out / "lr-find.json", found.to_dict())
        atomic_write_bytes(out / "lr-find.png", range_test(found))
    if as_json:
        _print_json(found.to_dict())
        return
    _show(found)
    if out is not None:
        screen.say_long(f"Wrote {out / 'lr-find.json'} and {out / 'lr-find.png'}")


def _show(found: Found) -> None:
    from finetune.cli.chart import chart

    screen.heading("Learning rate")
    if len(found.curve) > 1:
        lrs, losses = [p["lr"] for p in found.curve], [p["smoothed"] for p in found.curve]
        marks = {} if found.lr is None else {found.lr: f"{found.lr:.2g}"}
        for line in chart(lrs, losses, marks):
            screen.say_long(line)
        screen.say(
            "smoothed training loss over the body's learning rate; above twice its start it counts as that"
        )
    screen.say(found.reason)
    lr, head = found.usable()
    planned = f"the plan has lr {found.planned[0]:.2g}, head {found.planned[1]:.2g}"
    if found.lr is None:
        screen.say(
            f"Nothing is suggested; {planned}, a run with train.lr=auto takes {lr:.2g}, head {head:.2g}."
        )
        return
    screen.say(f"Suggested: lr {lr:.2g}, head {head:.2g}; {planned}.", style="bold")
    screen.say_long(f"Take it with: train.lr={lr:.2g} train.head_lr={head:.2g}")


@click.command()
@_options
def preflight(
    overrides: tuple[str, ...], data: str | None, strategy: str | None, backbone: str | None,
    recipe: str | None, plan: str | None, seed: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Look for what goes wrong in silence, on copies and in seconds; exit code 1 where a check fails.

    Checked is the first phase that the strategy trains by gradient steps: the first loss, weight decay, whether 20
    images can be learned by heart, gradients, frozen parts, preprocessing, the speed of the loader.
    """
    resolved = _asked(overrides, data, strategy, backbone, recipe, plan, seed)
    from finetune.data import ahead

    ahead.begin(resolved.data)  # in a second process, while torch is imported here
    from finetune.cli.story import Story
    from finetune.rehearsal import preflight as check

    with Story(json=as_json) as story:
        report = check(resolved, plan=plan, listener=story)
    if as_json:
        _print_json(report.to_dict())
    else:
        screen.heading("Preflight")
        rows = [(c.name, c.status, f"{c.found} {c.remedy}".strip()) for c in report.checks]
        screen.show(screen.table(("check", "verdict", "found"), rows, shrink=2))
        screen.say(f"{report.seconds:.1f} s, phase {report.phase!r}.")
    if report.of("failure"):
        raise SystemExit(1)


def _asked(
    overrides: tuple[str, ...], data: str | None, strategy: str | None, backbone: str | None,
    recipe: str | None, plan: str | None, seed: int | None,
) -> Recipe:  # fmt: skip
    if plan is not None:
        from finetune.training.plan_file import refuse_beside_plan

        refuse_beside_plan([*overrides, *([] if strategy is None else [f"strategy={strategy}"])])
    return asked_for(overrides, data=data, recipe=recipe, strategy=strategy, backbone=backbone, seed=seed)


def _print_json(tree: dict[str, Any]) -> None:
    from finetune.files import json_text

    click.echo(json_text(tree))
