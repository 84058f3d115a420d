"""From a recipe to a plan without training: images, network, decision, and the explanation of it all."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from finetune import ranks, runtime
from finetune.errors import ConfigError, DataError, must
from finetune.events import Listener
from finetune.features.extract import extract_together
from finetune.recipe import Recipe
from finetune.strategy import STRATEGIES
from finetune.strategy.context import Context
from finetune.strategy.cost import Cost, estimate
from finetune.strategy.decision import Decision, given, informed, neighbours
from finetune.strategy.evidence import gather
from finetune.strategy.explanation import Explanation
from finetune.strategy.invariance import Trial, spare, try_augmentations
from finetune.strategy.measure import sample_indices
from finetune.strategy.plan import GradientPhase, Plan
from finetune.strategy.suited import require_suited, unsuited

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle, ImageSet
    from finetune.training.plan_file import PlanLike
    from finetune.zoo.backbone import Backbone


@dataclass(frozen=True)
class Setup:
    """What a decision is made about."""

    bundle: DataBundle
    backbone: Backbone
    device: torch.device
    threads: int
    given: tuple[Plan, str] | None = None
    """A plan to carry out instead of deciding, and its text."""


def set_up(
    recipe: Recipe, data: DataBundle | None, listener: Listener, plan: PlanLike | None = None
) -> Setup:
    """Read the images and build the network on its device. Cheap mistakes show before the images are read.

    ``data``: images already read; ``plan``: see ``Setup.given``. Raises FinetuneError.
    """
    STRATEGIES.entry(recipe.strategy)
    if data is None and recipe.data.path is None:
        raise ConfigError(
            must("data.path", "a folder with one sub-folder per class", None, "Use --data DIR.")
        )
    from finetune.data.load import load_data
    from finetune.data.profile import profile
    from finetune.data.threads import worker_count
    from finetune.zoo.zoo import card

    card(recipe.backbone)
    obeyed = None if plan is None else _read(plan, recipe, listener)
    device = runtime.choose_device(recipe.device)
    threads = runtime.choose_threads(recipe.threads)
    runtime.configure_threads(threads)
    runtime.seed_everything(recipe.seed)
    bundle = data if data is not None else load_data(recipe.data, recipe.seed)
    listener.on_data(profile(bundle))
    backbone = network(recipe, bundle, listener.on_message)
    if (how := recipe.data.normalise) != "backbone":
        _normalise_by_data(backbone, bundle.train, how, worker_count(recipe.data.workers), listener)
    listener.on_backbone(_facts(backbone, recipe, device, threads))
    return Setup(bundle, backbone.to(device), device, threads, obeyed)


def network(recipe: Recipe, bundle: DataBundle, say: Callable[[str], None] = lambda text: None) -> Backbone:
    """The recipe's backbone with a head for the data's classes, on the CPU. Raises FinetuneError."""
    from finetune.zoo.create import create_backbone

    backbone = create_backbone(
        recipe.backbone,
        pretrained=recipe.pretrained,
        num_classes=len(bundle.classes),
        image_size=recipe.data.image_size,
        seed=recipe.seed,
        task=bundle.task.name,
    )
    if recipe.norm_layers == "group":
        say(
            f"{backbone.use_group_norms()} batch norms of {backbone.name} are group norms now (norm_layers=group): the "
            "pretrained answers change, and most of the network has to train."
        )
    return backbone


def _normalise_by_data(
    backbone: Backbone, images: ImageSet, how: Literal["data", "mean-image"], workers: int, listener: Listener
) -> None:
    from finetune.data.statistics import normalised

    prep = normalised(images, backbone.preprocessing, how, workers)
    backbone.with_statistics(prep)
    if how == "mean-image":
        listener.on_message(
            "The training images' mean image is subtracted from all (data.normalise=mean-image)."
        )
        return
    shown = [", ".join(f"{value:.3f}" for value in values) for values in (prep.mean, prep.std)]
    listener.on_message(
        f"Pixels are normalised by the training images' own mean {shown[0]} and std {shown[1]} (data.normalise=data)."
    )


def require_alike(setup: Setup) -> None:
    """Raises DataError where the processes of one training do not see the same images."""
    bundle = setup.bundle
    digest = hashlib.sha256()
    for part in (bundle.train, bundle.val, bundle.test):
        for index in range(len(part)):
            digest.update(part.fingerprint(index))
        digest.update(str(part.targets.tolist()).encode())
    seen = ranks.gather((digest.hexdigest(), platform.node()))
    other = next((i for i, (found, _) in enumerate(seen) if found != seen[0][0]), None)
    if other is not None:
        raise DataError(
            f"All processes must see the same images. Process {other} on {seen[other][1]} sees others than process 0 "
            f"on {seen[0][1]}. data.path must hold the same files on every machine."
        )


def look_together(recipe: Recipe, setup: Setup, listener: Listener) -> None:
    """What ``decide`` will look at, computed by all processes, so that the main one finds it in its cache."""
    if recipe.strategy in ("linear", "scratch"):  # nothing is measured
        return
    images = setup.bundle.train
    extract_together(
        setup.backbone,
        images.subset(sample_indices(images.labels, seed=recipe.seed)),
        device=setup.device,
        cache=recipe.probe.cache,
        threads=recipe.data.workers,
        message=listener.on_message,
        progress=lambda done, total: listener.on_progress("looking at the images", done, total),
    )


def advised(recipe: Recipe, data: DataBundle | None = None, listener: Listener | None = None) -> Explanation:
    """Everything up to the plan, told to the listener like a run's beginning. Raises FinetuneError."""
    from finetune.audit.glance import glance

    listener = listener or Listener()
    setup = set_up(recipe, data, listener)
    for line in glance(setup.bundle).messages(recipe.data.path):
        listener.on_message(line)
    found = decide(recipe, setup, listener)
    listener.on_decision(found.decision)
    listener.on_plan(found.plan)
    listener.on_explanation(found)
    return found


def decide(recipe: Recipe, setup: Setup, listener: Listener) -> Explanation:
    """Measure and decide; leave out the augmentations that the labels mind; say what it will cost."""
    from finetune.strategy.auto import choose

    ctx = _context(recipe, setup, listener)
    plan, decision = choose(ctx)
    require_suited(plan, setup.backbone)
    if decision.evidence is None and _worth_measuring(plan):
        decision = informed(decision, ctx)
    decision = replace(decision, unfit=unsuited(recipe, setup.backbone))
    trials: tuple[Trial, ...] = ()
    if recipe.train.avoid is None:
        trials = try_augmentations(plan, setup.backbone, setup.bundle.train, recipe, listener)
    plan = spare(plan, _banned(recipe, trials))
    _say_unused(plan, recipe, listener)
    return _explained(plan, decision, recipe, setup, trials)


def _say_unused(plan: Plan, recipe: Recipe, listener: Listener) -> None:
    """Keys of the recipe that nobody reads where nothing is trained by gradient steps."""
    from finetune.training.plan_file import of_training

    unused = of_training(recipe)
    if unused and not any(isinstance(phase, GradientPhase) for phase in plan.phases):
        verb = "has" if len(unused) == 1 else "have"
        listener.on_message(
            f"{', '.join(unused)} {verb} no effect: {plan.strategy} solves heads and trains nothing by gradient steps."
        )


def planned(recipe: Recipe, setup: Setup, listener: Listener) -> tuple[Plan, Decision]:
    """The plan that ``decide`` comes to where the recipe says which augmentations to avoid; nothing is timed."""
    from finetune.strategy.auto import choose

    plan, decision = choose(_context(recipe, setup, listener))
    return spare(plan, recipe.train.avoid or ()), decision


def entrants(found: Explanation, recipe: Recipe, setup: Setup, listener: Listener) -> list[tuple[Plan, Cost]]:
    """The plans of the decision and of its neighbours, each with its cost, for a race; the decision's first."""
    from finetune.strategy.auto import plan_of

    ctx, banned = _context(recipe, setup, listener), _banned(recipe, found.trials)
    others = [spare(plan_of(ctx, n), banned) for n in neighbours(found.decision)[1:]]
    costed = [(plan, _cost(plan, recipe, setup)) for plan in others]
    return [(found.plan, found.cost), *costed] if found.cost is not None else costed


def _banned(recipe: Recipe, trials: Sequence[Trial]) -> Sequence[str]:
    """Families of augmentation that stay out: those that the recipe names, else those that a trial banned."""
    return recipe.train.avoid or [trial.family for trial in trials if trial.banned]


def obey(plan: Plan, recipe: Recipe, setup: Setup, listener: Listener) -> Explanation:
    """The explanation of a plan that was given: nothing is measured but its cost."""
    require_suited(plan, setup.backbone)
    said = ("The plan was given: nothing was measured or decided.",)
    decision = replace(given(_context(recipe, setup, listener), plan.strategy), reasons=said)
    return replace(_explained(plan, decision, recipe, setup, ()), given=True, asked=frozenset())


def _explained(
    plan: Plan, decision: Decision, recipe: Recipe, setup: Setup, trials: tuple[Trial, ...]
) -> Explanation:
    bundle, backbone = setup.bundle, setup.backbone
    return Explanation(
        decision=decision,
        plan=plan,
        card=backbone.card,
        stage_names=tuple(backbone.stage_names),
        classes=tuple(bundle.classes),
        trials=trials,
        cost=_cost(plan, recipe, setup),
        asked=frozenset(recipe.train.model_fields_set),
        batch=recipe.train.images_per_step,
    )


def _cost(plan: Plan, recipe: Recipe, setup: Setup) -> Cost:
    from finetune.training.precision import likely_dtype

    dtype = likely_dtype(recipe.train.precision, setup.device)
    return estimate(plan, setup.backbone, setup.bundle, recipe, dtype)


def _context(recipe: Recipe, setup: Setup, listener: Listener) -> Context:
    look: Callable[[], Any] = lambda: gather(recipe, setup.bundle, setup.backbone, listener)  # noqa: E731
    bundle = setup.bundle
    train = bundle.train
    return Context.of(
        recipe,
        train.labels,
        len(bundle.classes),
        setup.backbone,
        look,
        len(bundle.val),
        train.task,
        train.values,
        setup.device.type,
    )


def _read(plan: PlanLike, recipe: Recipe, listener: Listener) -> tuple[Plan, str]:
    """The given plan, held against an empty network of the recipe's kind: no weights are read for it."""
    from finetune.training.plan_file import decided_by_plan, read_plan
    from finetune.zoo.create import create_backbone

    empty = create_backbone(recipe.backbone, pretrained=False, image_size=recipe.data.image_size)
    found = read_plan(plan, empty.num_stages, recipe.backbone)
    unused = decided_by_plan(recipe)
    if unused:
        listener.on_message(f"The plan decides, not the recipe: {', '.join(unused)}.")
    return found


def _facts(backbone: Backbone, recipe: Recipe, device: Any, threads: int) -> dict[str, Any]:
    return {
        "name": backbone.name,
        "card": backbone.card,
        "pretrained": recipe.pretrained,
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "image_size": backbone.preprocessing.size,
        "stages": list(backbone.stage_names),
        "device": str(device),
        "threads": threads,
    }


def _worth_measuring(plan: Plan) -> bool:
    """Whether a given strategy costs more than the seconds of measuring."""
    one_stage = all(phase.kind == "probe" and len(phase.candidates) == 1 for phase in plan.phases)
    return plan.init == "pretrained" and not one_stage
