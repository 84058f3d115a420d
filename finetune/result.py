"""The result of a run: what its network answers for the test images, and what result.json says of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from finetune import ranks
from finetune.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from finetune.advice import Setup
    from finetune.events import Listener
    from finetune.recipe import Recipe
    from finetune.run_folder import RunFolder
    from finetune.strategy.plan import Plan
    from finetune.zoo.backbone import Backbone


@dataclass(frozen=True)
class Answers:
    """What is said of the test images."""

    values: np.ndarray
    """(N, K): probabilities, or the numbers of a regression."""
    members: tuple[float, ...] = field(default=())
    """The metric of each network where the answers are the mean of several."""


def answers_of(
    recipe: Recipe, folder: RunFolder, setup: Setup, plan: Plan, backbone: Backbone, listener: Listener
) -> Answers:
    """Let the trained network, or those that the run left as members, answer; by all processes together."""
    from finetune.evaluation.ensembles import load_members, mean_probabilities
    from finetune.evaluation.predict import predict_together
    from finetune.evaluation.scores import score_images

    bundle = setup.bundle
    told: dict[str, Any] = {"threads": recipe.data.workers, "listener": listener}
    if listed := ranks.on_main(folder.members):
        networks = ranks.each(lambda: load_members(listed, setup.device))
        parts = predict_together(networks, bundle.test, **told)
        each = [score_images(bundle.test, part, bundle.classes) for part in parts]
        return Answers(
            mean_probabilities(parts, [weight for _, weight in listed]),
            tuple(getattr(one, bundle.task.metric) for one in each),
        )
    untouched = plan.init == "pretrained" and all(phase.kind == "probe" for phase in plan.phases)
    cache = untouched and recipe.probe.cache
    (values,) = predict_together(backbone, bundle.test, cache=cache, **told)
    return Answers(values)


def write_result(
    recipe: Recipe, folder: RunFolder, setup: Setup, plan: Plan, backbone: Backbone, answers: Answers, *,
    listener: Listener, obeyed: bool, figures: bool, elapsed: Callable[[], float],
) -> dict[str, Any]:  # fmt: skip
    """Write predictions.csv, the figures where they are wanted, and result.json, which is returned.

    ``obeyed``: the plan was given instead of decided. ``elapsed``: seconds that the run took so far, all attempts
    together; asked when everything else is done.
    """
    from finetune.evaluation.scores import score_images
    from finetune.evaluation.table import write_answers
    from finetune.export.safetensors import writable

    bundle = setup.bundle
    scores = score_images(bundle.test, answers.values, bundle.classes)
    write_answers(folder.path / "predictions.csv", bundle.test, answers.values, bundle.classes)
    if figures:
        from finetune.report.glyphs import note
        from finetune.report.run_figures import draw_figures

        name = PurePath(bundle.source).name or "this data set"
        draw_figures(folder.path, scores, backbone.stage_names, name, recipe.backbone)
        if (said := note(bundle.classes)) is not None:
            listener.on_message(said)
    members = {"members": list(answers.members)} if answers.members else {}
    result = {
        "strategy": "given" if obeyed else recipe.strategy,
        "chosen": plan.strategy,
        "backbone": recipe.backbone,
        "data": bundle.source,
        "classes": list(bundle.classes),
        "test": {**scores.to_dict(), **members},
        "train_n": len(bundle.train),
        "val_n": len(bundle.val),
        "quarantined": len(bundle.quarantined),
        "kept": folder.kept(),
        "coach": _coached(folder),
        "seconds": round(elapsed(), 3),
        "trained_parameters": trained_parameters(backbone, plan),
        "changed_parameters": trained_parameters(backbone, plan, without=undone(folder)),
        "head_parameters": sum(p.numel() for _, p in backbone.head_parameters()),
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "image_size": backbone.preprocessing.size,
        "plain": backbone.is_plain,
        "exports": writable(backbone),
        "seed": recipe.seed,
        "device": str(setup.device),
        "finetune": __version__,
    }
    folder.write_json("result.json", result)
    return result


def trained_parameters(backbone: Backbone, plan: Plan, without: Collection[int] = ()) -> int:
    """Numbers that any phase of the plan changed: those of the trained stages and of the head.

    ``without`` the phases of these indices, which were undone: what is left differs from the network that the run
    began with.
    """
    moved = {name for name, _ in backbone.head_parameters()}
    for index, phase in enumerate(plan.phases):
        if phase.kind == "gradient" and index not in without:
            moved |= {
                name
                for stage in range(phase.train_from, backbone.num_stages)
                for name, parameter in backbone.stage_parameters(stage)
                if phase.trains == "all" or parameter.ndim <= 1
            }
    return sum(parameter.numel() for name, parameter in backbone.named_parameters() if name in moved)


def undone(folder: RunFolder) -> set[int]:
    """Indices of the gradient phases of which nothing was kept: the head of before was better on validation."""
    phases = folder.read_json("training.json").get("phases", {})
    return {
        int(index)
        for index, facts in phases.items()
        if "best" in facts and not facts.get("blend", {}).get("alpha", facts["best"]["epoch"])
    }


def _coached(folder: RunFolder) -> list[dict[str, Any]] | None:
    """What the coach found in the curves; None where nothing was trained by steps or it was turned off."""
    if not (folder.path / "coach.json").is_file():
        return None
    found: list[dict[str, Any]] | None = folder.read_json("coach.json").get("findings")
    return found
