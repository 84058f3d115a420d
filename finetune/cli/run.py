"""``finetune run`` and ``finetune resume``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune import launch, ranks, start
from finetune.cli import screen

if TYPE_CHECKING:
    from finetune.recipe import Recipe


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--data", metavar="PATH", help="Folder with one sub-folder per class, a table (CSV ...), an archive."
)
@click.option(
    "--group-by",
    metavar="WHAT",
    help="Never divide a patient, track ...: a column of the table, or a pattern such as '(p\\d+)_' in names.",
)
@click.option(
    "--folds", type=int, metavar="K", help="Cross-validate: K networks, each tested on a fold of its own."
)
@click.option(
    "--strategy",
    metavar="NAME",
    help="auto (default), linear, multistage, norm-bias, lora, partial, lp-ft, full, scratch.",
)
@click.option(
    "--backbone", metavar="NAME", help="Any name of `finetune zoo ls`, timm or torchvision; or a file."
)
@click.option("--recipe", metavar="FILE", help="A recipe file, or a name of `finetune recipe ls`.")
@click.option(
    "--plan", metavar="FILE", help="Carry out this plan (finetune strategy advise) instead of deciding."
)
@click.option(
    "--budget", metavar="TIME", help="Time for a race of auto's choice and its neighbours: 90s, 10m."
)
@click.option("--time", metavar="TIME", help="Be done by then: 90s, 10m; schedules are shortened to fit.")
@click.option("--out", metavar="DIR", help="The run folder; default: a new one in runs/.")
@click.option("--seed", type=int, metavar="N", help="Default 0.")
@click.option(
    "--explain",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: the decision as one document on stdout before training; everything else on stderr.",
)
@click.option("--no-preflight", is_flag=True, help="Train without looking for silent mistakes before.")
@click.option("--processes", type=click.IntRange(1), metavar="N", help="Train in N processes, a GPU each.")
@click.option("--quiet", is_flag=True, help="Print the result only.")
def run(
    overrides: tuple[str, ...],
    data: str | None,
    group_by: str | None,
    folds: int | None,
    strategy: str | None,
    backbone: str | None,
    recipe: str | None,
    budget: str | None,
    time: str | None,
    plan: str | None,
    out: str | None,
    seed: int | None,
    explain: str,
    no_preflight: bool,
    processes: int | None,
    quiet: bool,
) -> None:
    """Look at the images, decide how to use a pretrained network, train, test.

    Any recipe key can follow as KEY=VALUE, for example epochs=5 train.augment=none.
    """
    if time is not None:
        overrides = (*overrides, f"train.time={time}")
    if plan is not None:
        from finetune.training.plan_file import refuse_beside_plan

        options = {"strategy": strategy, "budget": budget}
        refuse_beside_plan([*overrides, *(f"{k}={v}" for k, v in options.items() if v is not None)])
    resolved = asked_for(
        (*overrides, "train.preflight=false") if no_preflight else overrides,
        data=data,
        group_by=group_by,
        folds=folds,
        recipe=recipe,
        strategy=strategy,
        backbone=backbone,
        budget=budget,
        out=out,
        seed=seed,
    )
    if launch.needed(processes):
        launch.again(click.get_current_context(), "processes")
        return

    from finetune.data import ahead

    ahead.begin(resolved.data)  # in a second process, while torch is imported here
    from finetune.api import run as run_api
    from finetune.cli.story import Story

    with Story(quiet, json=explain == "json") as story:
        finished = run_api(resolved, plan=plan, listener=story, began=start.began())
        if ranks.main():
            story.ending(finished.path, finished.result)


def asked_for(
    overrides: tuple[str, ...],
    *,
    data: str | None,
    recipe: str | None,
    group_by: str | None = None,
    folds: int | None = None,
    **keys: Any,
) -> Recipe:
    """The recipe that a command line adds up to: the file, then the options, then KEY=VALUE.

    Raises ConfigError with every problem.
    """
    from finetune.cookbook import find_recipe
    from finetune.recipe import Recipe, apply_overrides, read_yaml
    from finetune.strategy import STRATEGIES

    tree: dict[str, Any] = {}
    source = "the command line"
    if recipe is not None:
        path = find_recipe(recipe)
        tree, source = read_yaml(path), path.name
    tree.update({key: value for key, value in keys.items() if value is not None})
    given: dict[str, Any] = {"path": data, "group_by": group_by, "folds": folds}
    if any(value is not None for value in given.values()):
        section = tree.get("data")
        given = {key: value for key, value in given.items() if value is not None}
        tree["data"] = {**(section if isinstance(section, dict) else {}), **given}
    return Recipe.from_mapping(apply_overrides(tree, overrides, Recipe), source, STRATEGIES.names())


@click.command()
@click.argument("run", metavar="RUN", type=click.Path())
@click.option("--processes", type=click.IntRange(1), metavar="N", help="Go on in N processes, a GPU each.")
@click.option("--quiet", is_flag=True, help="Print the result only.")
def resume(run: str, processes: int | None, quiet: bool) -> None:
    """Go on with the stopped run in the folder RUN, exactly where it was."""
    from finetune.api import resume as resume_api
    from finetune.cli.story import Story
    from finetune.run_folder import RunFolder

    done = RunFolder.find(run).finished
    if launch.needed(processes) and not done:
        launch.again(click.get_current_context(), "processes")
        return
    with Story(quiet) as story:
        finished = resume_api(run, listener=story, began=start.began())
        if done:
            screen.say(f"Run {Path(run)} had finished already.")
            story.on_result(finished.result)
        if ranks.main():
            story.ending(finished.path, finished.result)
