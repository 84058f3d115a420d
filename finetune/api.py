"""Everything the command line does, from Python: run, advise, resume, open_run, and the Run that they return."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import process_group, ranks
from finetune.errors import ConfigError, RunError, must
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.task import TASKS, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

    from finetune.data.imageset import DataBundle, ImageSet
    from finetune.evaluation.ensembles import Members
    from finetune.evaluation.labelled import Labelled
    from finetune.evaluation.predict import Prediction
    from finetune.evaluation.scores import AnyScores
    from finetune.strategy.decision import Decision
    from finetune.strategy.plan import Plan
    from finetune.training.plan_file import PlanLike
    from finetune.zoo.backbone import Backbone

RecipeLike = Recipe | Mapping[str, Any] | str | os.PathLike[str]


def run(
    recipe: RecipeLike,
    *overrides: str,
    data: DataBundle | None = None,
    plan: PlanLike | None = None,
    listener: Listener | None = None,
    figures: bool = True,
    began: float | None = None,
) -> Run:
    """The main job: look at the images, decide, train, test, keep everything in a run folder.

    In a script that torchrun or ``accelerate launch`` starts in several processes, all call it and work together; the
    main one alone writes and listens.

    Args:
        recipe: a Recipe, a mapping of recipe keys, a recipe file, or the name of a shipped recipe.
        overrides: ``"key=value"`` strings, as on the command line.
        data: images already read (see ``finetune.data.load``); default: the recipe's ``data.path``.
        plan: a Plan, or a plan file, to carry out instead of asking a strategy. What the recipe says about
            strategy and training gives way to it; an override that does is refused.
        listener: is told what happens.
        figures: draw the PNG files.
        began: the ``time.monotonic()`` from which ``train.time`` and the run's seconds count; default: now.

    Raises:
        FinetuneError: one of the tree in ``finetune.errors``; nothing half-made is left behind.
        Interrupted: stopped by Ctrl-C or SIGTERM; ``resume`` goes on.
    """
    from finetune.crossval import of_all_folds, start_folds
    from finetune.pipeline import Pipeline

    if plan is not None:
        from finetune.training.plan_file import refuse_beside_plan

        refuse_beside_plan(overrides)
    resolved = as_recipe(recipe, *overrides)
    with _together(resolved):
        folder = RunFolder(ranks.on_main(lambda: RunFolder.choose(resolved).path))
        if of_all_folds(resolved):
            start_folds(resolved, folder, data, _heard(listener), figures, plan, began)
        else:
            Pipeline(resolved, folder, data, _heard(listener), figures, plan, began).start()
    return Run(folder.path)


def advise(
    recipe: RecipeLike,
    *overrides: str,
    data: DataBundle | None = None,
    listener: Listener | None = None,
) -> tuple[Plan, Decision]:
    """Decide only: what ``run`` would do, and why. Nothing is trained and no file written but cached features.

    The plan can be changed (``plan.model_copy``, or as YAML) and given to ``run(..., plan=plan)``. Arguments
    are those of ``run``; ``listener.on_explanation`` is told the rest: expected accuracies, learning rates,
    augmentations left out, cost. Raises FinetuneError.
    """
    from finetune.advice import advised

    found = advised(as_recipe(recipe, *overrides), data, listener)
    return found.plan, found.decision


def resume(
    path: str | os.PathLike[str],
    *,
    data: DataBundle | None = None,
    listener: Listener | None = None,
    figures: bool = True,
    began: float | None = None,
) -> Run:
    """Go on with a stopped run, or make the network again that a finished one has lost; any other finished one is
    returned as it is. Raises FinetuneError."""
    from finetune.crossval import go_on_with_folds, of_all_folds
    from finetune.pipeline import Pipeline

    folder = RunFolder.find(path)
    recipe = folder.recipe()
    with _together(recipe):
        if not ranks.on_main(lambda: folder.finished):
            if of_all_folds(recipe):
                go_on_with_folds(recipe, folder, _heard(listener), figures, began)
            else:
                Pipeline(recipe, folder, data, _heard(listener), figures, None, began).go_on()
    return Run(folder.path)


def _together(recipe: Recipe) -> AbstractContextManager[None]:
    """Inside the block the processes that were started together work together, each on its device."""
    from finetune import runtime

    return process_group.session(lambda: runtime.choose_device(recipe.device))


def _heard(listener: Listener | None) -> Listener:
    """Of several processes the main one alone is listened to."""
    return listener if listener is not None and ranks.main() else Listener()


def open_run(path: str | os.PathLike[str]) -> Run:
    """A finished run. Raises RunError for an unknown or unfinished one."""
    folder = RunFolder.find(path)
    if not folder.finished:
        missing = folder.missing() if (folder.path / "result.json").is_file() else []
        what = f"has lost its network: {missing[0]} is missing" if missing else "did not finish"
        raise RunError(f"Run {str(path)!r} {what}. Go on with: {folder.go_on}")
    return Run(folder.path)


def as_recipe(recipe: RecipeLike, *overrides: str) -> Recipe:
    """Validate whatever stands for a recipe. Raises ConfigError with every problem."""
    from finetune.cookbook import find_recipe
    from finetune.strategy import STRATEGIES

    if isinstance(recipe, Recipe):
        return recipe.override(*overrides) if overrides else recipe
    if isinstance(recipe, Mapping):
        from finetune.recipe import apply_overrides

        return Recipe.from_mapping(apply_overrides(recipe, overrides, Recipe), strategies=STRATEGIES.names())
    if isinstance(recipe, (str, os.PathLike)):
        return Recipe.load(find_recipe(os.fspath(recipe)), overrides, STRATEGIES.names())
    raise ConfigError(
        must("recipe", "a Recipe, a mapping, a file or a shipped recipe's name", type(recipe).__name__)
    )


class Run:
    """A finished run: its folder, its result, and the classifier in it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = RunFolder(path)

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @cached_property
    def result(self) -> dict[str, Any]:
        """The content of result.json."""
        found = self.folder.read_json("result.json")
        missing = {"classes", "test", "seconds", "parameters", "trained_parameters"} - set(found)
        if missing:
            where = self.path / "result.json"
            raise RunError(
                must(str(where), "as finetune wrote it", f"one without {', '.join(sorted(missing))}")
                + f" Delete it, then: {self.folder.go_on}"
            )
        return found

    @cached_property
    def decision(self) -> dict[str, Any]:
        """The content of decision.json."""
        return self.folder.read_json("decision.json")

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe as it was resolved."""
        return self.folder.recipe()

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(self.result["classes"])

    @cached_property
    def task(self) -> Task:
        """What was learned: classes, labels or a number."""
        return TASKS[self.result["test"].get("task", "single-label")]

    @cached_property
    def backbone(self) -> Backbone:
        """The trained network on the recipe's device, in eval mode. Raises RunError for an ensemble."""
        from finetune.zoo.model_folder import load_backbone

        if listed := self.folder.members():
            raise RunError(
                f"{self.path} is an ensemble of {len(listed)} networks, not one. Use its answers, a member such "
                f"as {listed[0][0]}, or average the weights: finetune ensemble RUN RUN --soup uniform"
            )
        return load_backbone(self.folder.model).to(self._get_ready()).eval()

    def _get_ready(self) -> torch.device:
        """Threads as the recipe says; the device to put networks on."""
        from finetune import runtime

        runtime.configure_threads(runtime.choose_threads(self.recipe.threads))
        return runtime.choose_device(self.recipe.device)

    @cached_property
    def networks(self) -> Backbone | Members:
        """What answers: the trained network, or those of an ensemble, each on the recipe's device."""
        from finetune.evaluation.ensembles import load_members

        listed = self.folder.members()
        return load_members(listed, self._get_ready()) if listed else self.backbone

    def predict(self, images: Iterable[Any]) -> list[Prediction]:
        """An answer for each path, PIL image, array or tensor; unreadable ones carry an ``error``."""
        return list(self.predict_each(images))

    def predict_each(self, images: Iterable[Any]) -> Iterator[Prediction]:
        """Like predict, as a stream."""
        from finetune.evaluation.predict import predict_each

        return predict_each(self.networks, self.classes, images)

    def probabilities(self, images: ImageSet) -> np.ndarray:
        """(N, K) probabilities of an image set; where the task is regression the numbers, (N, 1)."""
        from finetune.evaluation.predict import predict_images

        return predict_images(self.networks, images)

    def evaluate(self, data: str | os.PathLike[str] | ImageSet) -> AnyScores:
        """Accuracy and the rest, or the figures of the run's task, on other labelled images: a folder per class, a
        table, or an image set.

        Of a folder with splits, test/ is taken, or val/ where there is none. Raises DataError.
        """
        return self.judge(data)[0]

    def judge(self, data: str | os.PathLike[str] | ImageSet) -> tuple[AnyScores, Labelled, np.ndarray]:
        """Like evaluate, with the images (and those set aside) and their (N, K) probabilities or numbers."""
        from finetune.evaluation.labelled import labelled_images
        from finetune.evaluation.scores import score_images

        asked = self.recipe.data
        found = labelled_images(data, self.classes, asked.max_pixels, self.task, asked)
        probabilities = self.probabilities(found.images)
        return score_images(found.images, probabilities, self.classes), found, probabilities

    def export(self, out: str | os.PathLike[str], format: str = "safetensors") -> Path:
        """Write the network in another program's format and verify its answers. Raises ExportError."""
        from finetune.export.write import export

        return export(self.backbone, self.classes, Path(out), format)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


__all__ = ["Run", "advise", "as_recipe", "open_run", "resume", "run"]
