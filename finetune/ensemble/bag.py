"""Bagging: N runs of one recipe on bootstrap resamples of its training images, and the mean of their answers.

Breiman 1996, "Bagging predictors". A resample leaves out about 37% of the images; each image is answered by the
runs that did not see it, and the accuracy (or the task's figures) of those answers (out of bag) needs no other images.

A single run on the original images comes first. It decides the plan and, by cross-validation, the L2 strength
of linear heads: within a resample the copies of an image would lie on both sides of a fold, and the least
strength would always win. Heads other than logistic regression set their temperature by leaving one out, with
the same fault, so bags solve heads by logistic regression only. Heads for a number are ridge regressions, whose
strength is all that leaving one out decides.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.api import RecipeLike, Run, as_recipe, run
from finetune.ensemble.candidates import Candidate
from finetune.ensemble.folder import judged, new_folder, write_result
from finetune.errors import ConfigError, DataError, must
from finetune.events import Listener, StepsOnly
from finetune.recipe import Recipe
from finetune.strategy.plan import Phase, Plan, ProbePhase
from finetune.task import REGRESSION, Task

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle, ImageSet

_DRAW = 3


def bootstrap(labels: np.ndarray, seed: int, number: int) -> np.ndarray:
    """Ascending (N,) indices drawn with replacement within each class, so that no class is lost. Of images with labels
    or numbers ``labels`` are the groups that splits are stratified by.

    >>> bootstrap(np.array([0, 0, 0, 1, 1]), seed=0, number=1).shape
    (5,)
    """
    rng = np.random.default_rng((seed, _DRAW, number))
    drawn = [rng.choice(m, len(m)) for k in np.unique(labels) if len(m := np.flatnonzero(labels == k))]
    return np.sort(np.concatenate(drawn))


def out_of_bag(
    answers: Sequence[np.ndarray], draws: Sequence[np.ndarray], n: int
) -> tuple[np.ndarray, np.ndarray]:
    """(M,) indices of the images that some draw left out, and the mean (M, K) of the answers to each.

    ``answers[i]`` are the (., K) probabilities of the images that ``draws[i]`` left out, in ascending order.
    """
    total, count = np.zeros((n, answers[0].shape[1])), np.zeros(n)
    for answer, draw in zip(answers, draws, strict=True):
        left = left_out(draw, n)
        total[left] += answer
        count[left] += 1
    seen = np.flatnonzero(count)
    return seen, total[seen] / count[seen, None]


def left_out(draw: np.ndarray, n: int) -> np.ndarray:
    """Ascending indices below ``n`` that a draw does not have."""
    return np.setdiff1d(np.arange(n), draw)


def settled(plan: Plan, facts: Mapping[str, Any]) -> Plan:
    """The plan with every probe as it was chosen before: its stages, its L2 strength, its norms.

    ``facts`` is the content of training.json of a run of that plan.
    """
    phases: list[Phase] = []
    for i, phase in enumerate(plan.phases):
        if isinstance(phase, ProbePhase):
            found = facts["phases"][str(i)]
            chosen: dict[str, Any] = {"candidates": (tuple(found["taps"]),), "combine": "pick"}
            if found["lambda"] is not None:
                chosen["lambdas"] = (float(found["lambda"]),)
            if "norms" in found:
                chosen["norms"] = found["norms"]["chosen"]
            phases.append(phase.model_copy(update=chosen))
        else:
            phases.append(phase)
    return plan.model_copy(update={"phases": tuple(phases)})


def bag(
    recipe: RecipeLike,
    count: int,
    *,
    data: DataBundle | None = None,
    listener: Listener | None = None,
) -> Run:
    """``count`` runs of the recipe on resamples of its training images, as one folder that answers like a run.

    The folder, ``recipe.out`` or a new one below runs/, holds the single run in ``single/``, the others in
    ``bags/``, and in ensemble.json the out-of-bag accuracy. The validation and test images stay as they are.
    With cached features linear bags only cost the solving. Raises FinetuneError.
    """
    from finetune.data.load import load_data
    from finetune.evaluation.scores import in_figures, main_figure, score_images

    started, told = time.monotonic(), listener or Listener()
    asked = _checked(as_recipe(recipe), count)
    folder = new_folder(asked.out, "bag")
    if data is None and asked.data.path is None:
        raise ConfigError(
            must("data.path", "a folder with one sub-folder per class", None, "Use --data DIR.")
        )
    bundle = data if data is not None else load_data(asked.data, asked.seed)
    if len(bundle.train) < 2:
        raise DataError(must("The training images", "at least 2 to be resampled", len(bundle.train)))
    asked = _solved_alike(asked, bundle.task)
    single = run(asked.override(out=str(folder.path / "single")), data=bundle, listener=told, figures=False)
    told.on_message(f"The single run: {in_figures(*main_figure(single.result['test']))}.")
    plan = Plan.from_yaml((single.path / "plan.yaml").read_text(encoding="utf-8"))
    plan = settled(plan, single.folder.read_json("training.json"))
    untouched = all(phase.kind == "probe" for phase in plan.phases)
    n, draws, answers, tests, members = len(bundle.train), [], [], [], []
    for number in range(1, count + 1):
        draw = bootstrap(bundle.train.labels, asked.seed, number)
        keys = asked.model_dump(exclude_unset=True, exclude={"train", "budget", "strategy"})
        kept = asked.train.model_dump(exclude_unset=True, include={"precision", "channels_last", "log_every"})
        member = Recipe.from_mapping(
            {
                **keys,
                "train": kept,
                "seed": asked.seed + number,
                "out": str(folder.path / "bags" / str(number)),
            }
        )
        resampled = replace(bundle, train=bundle.train.subset(draw))
        done = run(member, data=resampled, plan=plan, listener=StepsOnly(told), figures=False)
        shutil.rmtree(done.path / "checkpoints", ignore_errors=True)
        network, left = done.backbone, bundle.train.subset(left_out(draw, n))
        answers.append(_answers(network, left, untouched and asked.probe.cache))
        tests.append(_answers(network, bundle.test, untouched and asked.probe.cache))
        draws.append(draw)
        scores = score_images(bundle.test, tests[-1], bundle.classes)
        members.append({"model": f"bags/{number}/model", "weight": 1 / count, "run": f"bags/{number}",
                        **judged(scores)})  # fmt: skip
        told.on_message(f"Bag {number} of {count}: {in_figures(*main_figure(scores.to_dict()))}.")
    seen, mean = out_of_bag(answers, draws, n)
    oob = score_images(bundle.train.subset(seen), mean, bundle.classes)
    folder.write_members("bag", members)
    folder.write_json("bag.json", {
        "single": judged(score_images(bundle.test, single.probabilities(bundle.test), bundle.classes)),
        "out_of_bag": {**judged(oob), "n": oob.n, "never_left_out": n - oob.n},
    })  # fmt: skip
    return _written(folder.path, single, bundle, tests, time.monotonic() - started)


def _written(path: Path, single: Run, bundle: DataBundle, tests: Sequence[np.ndarray], seconds: float) -> Run:
    from finetune.evaluation.ensembles import mean_probabilities
    from finetune.evaluation.scores import score_images
    from finetune.run_folder import RunFolder

    each = [score_images(bundle.test, part, bundle.classes) for part in tests]
    mean = mean_probabilities(tests, [1 / len(tests)] * len(tests))
    (path / "plan.yaml").write_bytes((single.path / "plan.yaml").read_bytes())
    return write_result(
        RunFolder(path), "bag", [Candidate(single)], bundle.test, bundle.source, mean,
        score_images(bundle.test, mean, bundle.classes), each, [single] * len(tests),
        seconds - single.result["seconds"],
    )  # fmt: skip


def _answers(network: Any, images: ImageSet, cache: bool) -> np.ndarray:
    from finetune.evaluation.predict import predict_images

    return predict_images(network, images, cache=cache)


def _checked(asked: Recipe, count: int) -> Recipe:
    problems = []
    if count < 2:
        problems.append(must("--bag", "at least 2 runs", count))
    if asked.probe.solver not in ("auto", "logistic", "ridge"):
        problems.append(_only_logistic(asked))
    if asked.train.snapshots is not None:
        problems.append(
            must("train.snapshots", "left out in a bag of single networks", asked.train.snapshots)
        )
    if problems:
        raise ConfigError(" ".join(problems))
    return asked.override("probe.combine=pick")


def _solved_alike(asked: Recipe, task: Task) -> Recipe:
    """With the one solver that a bag has for the task. Raises ConfigError for another one."""
    solver = "ridge" if task == REGRESSION else "logistic"
    if asked.probe.solver not in ("auto", solver):
        said = must("probe.solver", "auto or ridge where the task is regression", repr(asked.probe.solver))
        raise ConfigError(said if task == REGRESSION else _only_logistic(asked))
    return asked.override(f"probe.solver={solver}")


def _only_logistic(asked: Recipe) -> str:
    return must("probe.solver", "logistic in a bag: the others set their temperature by leaving one out, where "
                "an image may have a copy", repr(asked.probe.solver))  # fmt: skip
