"""The estimator face: ``Classifier().fit(data).predict(images)``, in scikit-learn's manner."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.api import Run, as_recipe, open_run, run
from finetune.errors import ConfigError, DataError, Interrupted, RunError, must
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.task import MULTI_LABEL, REGRESSION

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle
    from finetune.evaluation.predict import Prediction

_LABELS = "labels.json"


class Classifier:
    """An image classifier that decides by itself how to use a pretrained network.

    >>> model = Classifier(strategy="linear", seed=1)
    >>> model.recipe.strategy, model.recipe.seed
    ('linear', 1)

    Args:
        strategy: ``auto``, ``linear``, ``multistage``, ``partial``, ``full``, ``lp-ft`` or ``scratch``.
        backbone: a zoo name, any timm or torchvision name, or a weight file.
        listener: is told what happens while fitting.
        keys: any recipe key, bare or with ``__`` for the dot (``epochs=5``, ``train__augment="none"``).
            ``out`` keeps the run folder there; without it the folder lives as long as the object.

    After ``fit``: ``classes_`` (K,) names, or the ints of a dataset without names; ``run_``; ``result_``.
    """

    def __init__(
        self,
        strategy: str = "auto",
        backbone: str = "embedded",
        *,
        listener: Listener | None = None,
        **keys: Any,
    ) -> None:
        assignments = {key.replace("__", "."): value for key, value in keys.items()}
        self.recipe: Recipe = as_recipe(_with_keys({"strategy": strategy, "backbone": backbone}, assignments))
        self.listener = listener
        self._run: Run | None = None
        self._integers = False

    def fit(
        self, train: Any, val: Any = None, test: Any = None, *, classes: Sequence[str] | None = None
    ) -> Classifier:
        """Train on arrays, a folder, a torch Dataset (anything with len, [index]) of (image, label), or a DataBundle.

        Arrays: ``fit(X, y)``, or ``fit((X, y), (X_val, y_val), (X_test, y_test))``. X: (N, H, W), (N, H, W, C) or
        (N, C, H, W), uint8 or floats in [0, 1]; or a list of images. y: (N,) ints or texts.

        Without ``val`` and ``test`` both are split off, stratified. Raises FinetuneError; Interrupted leaves
        the run folder, which its message names, for ``finetune.resume``.
        """
        bundle, recipe = self._read(train, val, test, classes)
        scratch = None
        if recipe.out is None:
            folder = tempfile.mkdtemp(prefix="finetune-")
            scratch = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            recipe = recipe.override(out=str(Path(folder) / "run"))
        try:
            self._run = run(recipe, data=bundle, listener=self.listener)
        except Interrupted:
            if scratch is not None:
                scratch.detach()  # the message says how to go on from there
            raise
        self._run.folder.write_json(_LABELS, {"integers": self._integers})
        return self

    def _read(
        self, train: Any, val: Any, test: Any, classes: Sequence[str] | None
    ) -> tuple[DataBundle | None, Recipe]:
        from finetune.data.arrays import paired
        from finetune.data.datasets import class_names
        from finetune.data.imageset import DataBundle
        from finetune.data.load import from_datasets

        self._integers = False
        train, val, test = paired(train, val, test, self.recipe.data.task)
        if isinstance(train, (str, os.PathLike)):
            if val is not None or test is not None:
                raise ConfigError(
                    must(
                        "val and test",
                        "left out where train is a folder",
                        "a value",
                        "Put val/ and test/ folders beside train/ instead.",
                    )
                )
            return None, self.recipe.override(
                data={**self.recipe.data.model_dump(), "path": os.fspath(train)}
            )
        if isinstance(train, DataBundle):
            return train, self.recipe
        bundle = from_datasets(
            train, val, test, classes=classes, recipe=self.recipe.data, seed=self.recipe.seed
        )
        unnamed = classes is None and class_names(train) is None
        numbers = all(name.removeprefix("-").isdigit() for name in bundle.classes)
        self._integers = unnamed and numbers and not isinstance(train[0][1], str)
        return bundle, self.recipe

    @property
    def run_(self) -> Run:
        """The run behind the classifier. Raises RunError before ``fit`` or ``load``."""
        if self._run is None:
            raise RunError(
                "This Classifier has no network yet. Call fit(data) or Classifier.load(folder) first."
            )
        return self._run

    @property
    def result_(self) -> dict[str, Any]:
        """The content of result.json."""
        return self.run_.result

    @property
    def classes_(self) -> np.ndarray:
        """(K,) class names; ints where the dataset had unnamed int labels."""
        names = self.run_.classes
        return np.array([int(n) for n in names]) if self._integers else np.array(names)

    def predict(self, images: Any) -> np.ndarray:
        """(N,) classes of a list of paths, PIL images, arrays or tensors, or a dataset. Raises DataError.

        Where labels were learned (N, K) bools in the order of ``classes_``, where a number (N,) numbers.
        """
        if self.run_.task == MULTI_LABEL:
            return np.asarray(self.predict_proba(images) > 0.5)
        if self.run_.task == REGRESSION:
            return np.array([answer.value for answer in self._answers(images)], np.float32)
        answers: np.ndarray = self.classes_[self.predict_proba(images).argmax(axis=1)]
        return answers

    def predict_proba(self, images: Any) -> np.ndarray:
        """(N, K) probabilities in the order of ``classes_``.

        Raises DataError naming unreadable images, ConfigError where a number was learned.
        """
        if self.run_.task == REGRESSION:
            raise ConfigError(
                must(
                    "The task of predict_proba", "single-label or multi-label", "regression", "Call predict."
                )
            )
        answers = self._answers(images)
        rows = [[(a.probabilities or {})[name] for name in self.run_.classes] for a in answers]
        return np.array(rows, np.float32).reshape(len(answers), len(self.run_.classes))

    def _answers(self, images: Any) -> list[Prediction]:
        """An answer for each image. Raises DataError naming unreadable ones."""
        answers = self.run_.predict(_images(images))
        wrong = [a.error for a in answers if a.error is not None]
        if wrong:
            raise DataError(wrong[0] + (f" ({len(wrong)} such images.)" if len(wrong) > 1 else ""))
        return answers

    def score(self, data: Any, labels: Any = None) -> float:
        """Accuracy on a folder or table, a dataset of (image, label), or images with separate ``labels``.

        As scikit-learn has it, of labels the share of images with all of them right, of a number R2; those on a
        table or folder only. Raises DataError.
        """
        if isinstance(data, (str, os.PathLike)):
            figure = {"multi-label": "subset_accuracy", "regression": "r2"}.get(
                self.run_.task.name, "accuracy"
            )
            return float(getattr(self.run_.evaluate(data), figure))
        if not self.run_.task.plain:
            what = f"The data to score where the task is {self.run_.task.name}"
            raise DataError(must(what, "the path of a table or folder", type(data).__name__))
        from finetune.data.arrays import as_dataset

        data = data if labels is not None else as_dataset(data, "data")
        pairs = (
            list(zip(data, labels, strict=True))
            if labels is not None
            else [data[i] for i in range(len(data))]
        )
        if not pairs:
            raise DataError(must("The data to score", "at least one (image, label) pair", "none"))
        said = self.predict([image for image, _ in pairs])
        return float(
            np.mean(
                [
                    _same(answer, label, self.run_.classes)
                    for answer, (_, label) in zip(said, pairs, strict=True)
                ]
            )
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Copy the run folder (network, result, decision, recipe) to a new folder. Raises RunError."""
        from finetune.files import disk_error
        from finetune.run_folder import check_free

        target = Path(path)
        source = self.run_.path
        check_free(target, "The folder to save to")
        try:
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoints"), dirs_exist_ok=True)
        except OSError as error:
            raise disk_error(error, target) from error
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Classifier:
        """A classifier from a saved or any other finished run folder. Raises RunError."""
        found = open_run(path)
        model = cls()
        model.recipe, model._run = found.recipe, found
        if (found.path / _LABELS).is_file():
            model._integers = bool(found.folder.read_json(_LABELS).get("integers"))
        return model

    def export(self, out: str | os.PathLike[str], format: str = "safetensors") -> Path:
        """Write the network for another program and verify its answers. Raises ExportError."""
        return self.run_.export(out, format)

    def __repr__(self) -> str:
        state = f"{len(self._run.classes)} classes" if self._run is not None else "not fitted"
        return f"Classifier(strategy={self.recipe.strategy!r}, backbone={self.recipe.backbone!r}: {state})"


def _with_keys(tree: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    """Recipe keys given as Python values, under their dotted or bare unique names."""
    from finetune.recipe import apply_overrides

    # JSON is YAML: the values take the way of the command line, and its checks.
    strings = [f"{key}={json.dumps(value, default=str)}" for key, value in keys.items()]
    return apply_overrides(tree, strings, Recipe, "Classifier")


def _images(images: Any) -> Iterable[Any]:
    """The images of a dataset of pairs, of a single image or path, or of a list."""
    if isinstance(images, (str, os.PathLike)) or hasattr(images, "convert"):
        return [images]
    if (
        isinstance(images, (list, tuple))
        or not hasattr(images, "__getitem__")
        or not hasattr(images, "__len__")
    ):
        return list(images)
    items = [images[i] for i in range(len(images))]
    return [item[0] if isinstance(item, (tuple, list)) else item for item in items]


def _same(answer: Any, label: Any, classes: tuple[str, ...]) -> bool:
    label = label.item() if hasattr(label, "item") else label
    if isinstance(label, str) or isinstance(answer, (int, np.integer)):
        return bool(answer == label)
    return 0 <= int(label) < len(classes) and bool(answer == classes[int(label)])
