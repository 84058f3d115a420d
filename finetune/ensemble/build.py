"""``finetune ensemble``: the mean of finished runs' answers, or of their weights, tested and kept."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from finetune.api import Run
from finetune.ensemble.candidates import (
    Candidate,
    own_images,
    read_candidates,
    refuse_chosen_on_fitted,
    refuse_tested_on_trained,
)
from finetune.ensemble.folder import copy_model, judged, new_folder, write_result
from finetune.events import Listener
from finetune.recipe import DataRecipe

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle, ImageSet
    from finetune.evaluation.labelled import Labelled

    DataLike = str | os.PathLike[str] | ImageSet | DataBundle | None

RunLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Tables:
    """The images of an ensemble: to test it on, to choose on, and to re-estimate norms on."""

    test: ImageSet
    source: str
    choose: ImageSet | None
    train: ImageSet | None
    """Of the first run; None where test images were given from elsewhere."""


def find_images(candidates: Sequence[Candidate], data: DataLike, select: DataLike, choosing: bool) -> Tables:
    """The images asked for, none of which taught a run what it is asked. Raises RunError and DataError."""
    from finetune.data.imageset import DataBundle

    first = candidates[0].run
    bundle: DataBundle | None = None
    if isinstance(data, DataBundle):
        bundle = data
        first.folder.require_same_images(bundle)
    elif data is None or (choosing and select is None):
        bundle = own_images(candidates)
    if bundle is not None and (data is None or data is bundle):
        test, source = bundle.test, bundle.source
    else:
        assert data is not None
        assert not isinstance(data, DataBundle)
        found = _labelled(data, first)
        test, source = found.images, found.folder
    refuse_tested_on_trained(candidates, test)
    choose: ImageSet | None = None
    if choosing:
        if select is None:
            assert bundle is not None
            choose = bundle.val
        elif isinstance(select, DataBundle):
            choose = select.val
        else:
            choose = _labelled(select, first).images
        refuse_chosen_on_fitted(candidates, choose)
    return Tables(test, source, choose, bundle.train if bundle is not None else None)


def _labelled(data: RunLike | ImageSet, run: Run) -> Labelled:
    """Other images with what the run learned; of a table of labels or numbers by the columns that it was read by."""
    from finetune.evaluation.labelled import labelled_images

    asked = run.recipe.data
    return labelled_images(
        data,
        run.classes,
        asked.max_pixels,
        run.task,
        DataRecipe(depth=asked.depth) if run.task.plain else asked,
    )


def ensemble(
    runs: Iterable[RunLike],
    *,
    greedy: bool = False,
    out: RunLike | None = None,
    data: DataLike = None,
    select: DataLike = None,
    listener: Listener | None = None,
) -> Run:
    """The mean of the answers of finished runs of the same classes, probabilities or numbers, as a folder that answers
    like a run.

    Args:
        runs: run folders, at least two; their networks are copied, so that the result can be moved.
        greedy: choose members and weights by the task's loss of validation images, by forward selection with
            replacement (``finetune.evaluation.ensembles.forward_selection``); those that are not picked are left out.
        out: the new folder; default below runs/.
        data: test images: a folder, an image set, or the runs' own DataBundle; default: the first run's test split.
        select: images to choose on; default: the first run's validation split.

    Raises:
        FinetuneError: other classes; test images that one of the runs saw; images to choose on that one of
            them was fitted on; a folder in use.
    """
    from finetune.evaluation.each import mean_loss
    from finetune.evaluation.ensembles import forward_selection, mean_probabilities
    from finetune.evaluation.predict import predict_images
    from finetune.evaluation.scores import score_images

    started, told = time.monotonic(), listener or Listener()
    folder = new_folder(out, "ensemble")
    candidates = read_candidates(runs)
    tables = find_images(candidates, data, select, greedy)
    weights = [1 / len(candidates)] * len(candidates)
    parts, tests = [], []
    for candidate in candidates:
        network = candidate.run.backbone
        tests.append(predict_images(network, tables.test, listener=told))
        if tables.choose is not None:
            parts.append(predict_images(network, tables.choose, listener=told))
    if tables.choose is not None:
        loss = partial(mean_loss, candidates[0].run.task)
        weights = forward_selection(parts, tables.choose.targets, loss=loss)
    each = [score_images(tables.test, part, candidates[0].run.classes) for part in tests]
    members: list[dict[str, Any]] = []
    for candidate, weight, scores in zip(candidates, weights, each, strict=True):
        if weight == 0:
            told.on_message(f"{candidate.run.path} was not picked.")
            continue
        model = f"members/{len(members) + 1}"
        copy_model(candidate.run.folder.model, folder.path / model)
        members.append({"model": model, "weight": weight, "run": str(candidate.run.path), **judged(scores)})
    folder.write_members("greedy" if greedy else "mean", members)
    probabilities = mean_probabilities(tests, weights)
    scores = score_images(tables.test, probabilities, candidates[0].run.classes)
    answering = [candidate.run for candidate, weight in zip(candidates, weights, strict=True) if weight]
    return write_result(folder, "ensemble", candidates, tables.test, tables.source, probabilities, scores, each,
                        answering, time.monotonic() - started)  # fmt: skip


def soup(
    runs: Iterable[RunLike],
    how: Literal["uniform", "greedy"] = "uniform",
    *,
    out: RunLike | None = None,
    data: DataLike = None,
    select: DataLike = None,
    listener: Listener | None = None,
) -> Run:
    """One network whose weights are the mean of those of finished runs (arXiv 2203.05482): an ordinary run.

    The runs must have started from the same pretrained weights and have the same architecture and head. Where
    their running statistics differ, those are re-estimated on the first run's training images, or averaged
    where test images were given and nothing else. ``greedy`` takes a network in if accuracy (F1, R2) of validation
    does not fall. Arguments and errors as for ``ensemble``.
    """
    from finetune.ensemble.soup import Pot
    from finetune.evaluation.each import mean_score
    from finetune.evaluation.ensembles import greedy_soup
    from finetune.evaluation.predict import predict_images
    from finetune.evaluation.scores import score_images
    from finetune.zoo.model_folder import save_backbone

    started, told = time.monotonic(), listener or Listener()
    folder = new_folder(out, "soup")
    candidates = read_candidates(runs)
    pot = Pot(candidates)
    tables = find_images(candidates, data, select, how == "greedy")
    pot.train = tables.train
    classes = candidates[0].run.classes
    each = [
        score_images(tables.test, predict_images(c.run.backbone, tables.test, listener=told), classes)
        for c in candidates
    ]
    chosen = list(range(len(candidates)))
    if tables.choose is not None:
        images = tables.choose

        def judge(ingredients: list[int]) -> float:
            return mean_score(images.task, images.targets, predict_images(pot.mix(ingredients), images))

        alone = [judge([i]) for i in chosen]
        chosen, _ = greedy_soup(sorted(chosen, key=lambda i: -alone[i]), judge)
    backbone = pot.mix(chosen)
    for i in sorted(set(range(len(candidates))) - set(chosen)):
        told.on_message(f"{candidates[i].run.path} was not taken in.")
    told.on_message(pot.norms)
    save_backbone(backbone, folder.model, classes=classes)
    folder.write_json("soup.json", {
        "kind": how,
        "norms": pot.norms,
        "members": [
            {"run": str(c.run.path), "taken": i in chosen, **judged(each[i])} for i, c in enumerate(candidates)
        ],
    })  # fmt: skip
    folder.write_text("plan.yaml", (candidates[0].run.path / "plan.yaml").read_text(encoding="utf-8"))
    probabilities = predict_images(backbone, tables.test, listener=told)
    return write_result(folder, "soup", candidates, tables.test, tables.source, probabilities,
                        score_images(tables.test, probabilities, classes), each, [candidates[0].run],
                        time.monotonic() - started)  # fmt: skip
