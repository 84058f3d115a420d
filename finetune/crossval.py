"""k-fold cross-validation: a run for each fold, tested on it, and one folder that sums them up and answers for all.

Each fold decides, trains and validates by itself, as a single run would: nothing that it is tested on was looked at.
Features of the frozen backbone are cached by image, so the folds share them. The folder answers with the mean of the k
networks; its figures are those of single ones, on images that they had not seen.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune import ranks
from finetune.errors import ConfigError, FinetuneError, Interrupted, RunError, must
from finetune.evaluation.table import read_rows
from finetune.events import Listener, Listeners, StepsOnly
from finetune.pipeline import Pipeline
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.task import REGRESSION
from finetune.training.interrupt import sigterm_raises

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle
    from finetune.data.load import ReadFolder
    from finetune.training.plan_file import PlanLike


def of_all_folds(recipe: Recipe) -> bool:
    """Whether the recipe asks for a run of every fold."""
    return recipe.data.folds is not None and recipe.data.fold is None


def start_folds(
    recipe: Recipe, folder: RunFolder, data: DataBundle | None, listener: Listener, figures: bool,
    plan: PlanLike | None = None, began: float | None = None,
) -> None:  # fmt: skip
    """Run every fold of ``recipe.data.folds``; ``figures``, ``plan`` and ``began`` as for ``finetune.run``.

    Raises ConfigError for images that are in memory already: they have been split. Otherwise as a run does.
    """
    if data is not None or recipe.data.path is None:
        raise ConfigError(
            must("data.folds", "left out, or given with data.fold, where the images are in memory", recipe.data.folds,
                 "Save them to a folder or table, or fit each fold: data.fold=1 ...")
        )  # fmt: skip
    ranks.on_main(lambda: folder.create(recipe))
    try:
        _carry_out(recipe, folder, listener, figures, plan, began)
    except Interrupted:
        raise
    except FinetuneError:
        if ranks.main() and not any(_fold(folder, k).path.exists() for k in _numbers(recipe)):
            folder.discard()  # the first fold said that there is nothing to keep
        raise


def go_on_with_folds(
    recipe: Recipe, folder: RunFolder, listener: Listener, figures: bool, began: float | None = None
) -> None:
    """Run the folds that are not finished, the stopped one from where it was. Raises FinetuneError."""
    _carry_out(recipe, folder, listener, figures, None, began)


def _carry_out(
    recipe: Recipe, folder: RunFolder, listener: Listener, figures: bool, plan: PlanLike | None,
    began: float | None,
) -> None:  # fmt: skip
    began, total = time.monotonic() if began is None else began, int(recipe.data.folds or 0)
    earlier = ranks.on_main(lambda: [_seconds(_fold(folder, number)) for number in _numbers(recipe)])
    read = _read(recipe)
    bundles = []
    for number in _numbers(recipe):
        fold = _fold(folder, number)
        own = recipe.override(f"data.fold={number}", name=None, out=str(fold.path))
        bundles.append(read.split(own.data, own.seed))
        heard = _First(listener) if number == 1 else StepsOnly(listener)
        limit = recipe.train.time
        if limit is not None:  # what is left is for this fold and those after it
            left = limit - sum(earlier) - (time.monotonic() - began)
            limit = max(1e-3, earlier[number - 1] + left / (total - number + 1))
        try:
            with sigterm_raises():
                job = Pipeline(own, fold, bundles[-1], heard, figures, plan, seconds=limit)
                result = _run_fold(job, fold, bundles[-1])
                metric = bundles[-1].task.metric
                listener.on_message(f"Fold {number} of {total}: {_shown(metric, result['test'][metric])}.")
        except (Interrupted, KeyboardInterrupt):
            raise Interrupted(f"Stopped in fold {number} of {total}. Go on with: {folder.go_on}") from None
    ranks.on_main(lambda: _sum_up(recipe, folder, bundles, listener, time.monotonic() - began))


def _run_fold(job: Pipeline, fold: RunFolder, bundle: DataBundle) -> dict[str, Any]:
    """The result of a fold: of one that is finished, went on or is run now."""

    def state() -> str:
        if fold.finished:
            fold.require_same_images(bundle)
            return "finished"
        if (fold.path / "recipe.yaml").is_file():
            return "begun"
        shutil.rmtree(fold.path, ignore_errors=True)
        return "new"

    found = ranks.on_main(state)
    if found == "begun":
        job.go_on()
    elif found == "new":
        job.start()
    return ranks.on_main(lambda: fold.read_json("result.json"))


def _seconds(fold: RunFolder) -> float:
    """What a fold took before this attempt."""
    for name in ("result.json", "timing.json"):
        if (fold.path / name).is_file():
            return float(fold.read_json(name).get("seconds", 0.0))
    return 0.0


def _read(recipe: Recipe) -> ReadFolder:
    """The images, opened once for all folds."""
    from finetune.data import ahead
    from finetune.data.load import read_folder

    return ranks.each(lambda: ahead.take(recipe.data) or read_folder(recipe.data))


def _sum_up(
    recipe: Recipe, folder: RunFolder, bundles: Sequence[DataBundle], listener: Listener, seconds: float
) -> None:
    """predictions.csv (each image by the network that had not seen it), folds.csv, ensemble.json, result.json."""
    from finetune.data.imageset import Joined
    from finetune.evaluation.scores import score_images
    from finetune.evaluation.table import write_answers, write_rows
    from finetune.version import __version__

    folds = [_fold(folder, number) for number in _numbers(recipe)]
    results = [fold.read_json("result.json") for fold in folds]
    answers = [_answers(fold, bundle) for fold, bundle in zip(folds, bundles, strict=True)]
    images = bundles[0].test
    for bundle in bundles[1:]:
        images = Joined(images, bundle.test)
    classes, task = bundles[0].classes, bundles[0].task
    probabilities = np.concatenate(answers)
    pooled = score_images(images, probabilities, classes)
    write_answers(folder.path / "predictions.csv", images, probabilities, classes)
    write_rows(folder.path / "folds.csv", ("image", "label", "fold", "fingerprint"), [
        (bundle.test.name(i), bundle.test.truth(i), str(number), bundle.test.fingerprint(i).hex())
        for number, bundle in enumerate(bundles, 1) for i in range(len(bundle.test))
    ])  # fmt: skip
    write_rows(folder.path / "quarantine.csv", ("image", "reason"),
               [(q.path, q.reason) for q in bundles[0].quarantined])  # fmt: skip
    each = [float(result["test"][task.metric]) for result in results]
    summary: dict[str, Any] = {
        "folds": len(each), "metric": task.metric, "each": each, "mean": float(np.mean(each)),
        "std": float(np.std(each, ddof=1)),
    }  # fmt: skip
    first = results[0]
    folder.write_members("folds", [
        {"model": f"{fold.path.name}/model", "weight": 1 / len(folds), "run": fold.path.name, task.metric: value}
        for fold, value in zip(folds, each, strict=True)
    ])  # fmt: skip
    result = {
        **first,
        "chosen": ", ".join(name for name, _ in Counter(r["chosen"] for r in results).most_common()),
        "test": {**pooled.to_dict(), "members": each},
        "folds": summary,
        "train_n": round(float(np.mean([r["train_n"] for r in results]))),
        "val_n": round(float(np.mean([r["val_n"] for r in results]))),
        "kept": None,
        "coach": None,
        "seconds": round(max(seconds, sum(r["seconds"] for r in results)), 3),
        "trained_parameters": sum(r["trained_parameters"] for r in results),
        "parameters": sum(r["parameters"] for r in results),
        "finetune": __version__,
    }
    folder.write_json("result.json", result)
    listener.on_message(
        f"Mean of {len(each)} folds: {_shown(task.metric, summary['mean'])}, standard deviation "
        f"{_shown('', summary['std'], task.metric)}. Below, all images, each by the network that had not seen it."
    )
    listener.on_result(result)


def _answers(fold: RunFolder, bundle: DataBundle) -> np.ndarray:
    """(N, K) answers of a finished fold to its test images, as predictions.csv has them."""
    rows = read_rows(fold.path / "predictions.csv")
    if [row[0] for row in rows] != [bundle.test.name(i) for i in range(len(bundle.test))]:
        raise RunError(
            must(str(fold.path / "predictions.csv"), "the answers to the images of its fold", f"{len(rows)} others",
                 f"Delete {fold.path}, then: {RunFolder(fold.path.parent).go_on}")
        )  # fmt: skip
    wide = 1 if bundle.task == REGRESSION else len(bundle.classes)
    return np.array([[float(cell) for cell in row[-wide:]] for row in rows])


def _fold(folder: RunFolder, number: int) -> RunFolder:
    return RunFolder(folder.path / f"fold-{number}")


def _numbers(recipe: Recipe) -> range:
    return range(1, int(recipe.data.folds or 0) + 1)


def _shown(name: str, value: float, metric: str = "") -> str:
    """A figure in words."""
    from finetune.evaluation.scores import in_figures

    return f"{name.replace('_', ' ')} {in_figures(metric or name, value)}".strip()


class _First(Listeners):
    """The story of the first fold is told, but for its result: the summary has all."""

    def on_result(self, result: dict[str, Any]) -> None:
        pass
