"""Finished runs that may be put together: the same task and classes, and images that none of them was trained on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.api import Run, open_run
from finetune.errors import ConfigError, RunError, must
from finetune.strategy.plan import Plan

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle, ImageSet


@dataclass(frozen=True)
class Candidate:
    """A finished run of a single network."""

    run: Run

    @cached_property
    def rows(self) -> list[tuple[str, ...]]:
        """splits.csv: image, label, split, fingerprint. Raises RunError where it does not tell."""
        from finetune.evaluation.table import read_rows

        path = self.run.path / "splits.csv"
        rows = read_rows(path)
        if not rows or any(len(row) != 4 for row in rows):
            raise RunError(
                must(str(path), "a table with the fingerprint of every image", "none", "Train the run again.")
            )
        return rows

    def prints(self, *splits: str) -> set[str]:
        """Fingerprints of the images of some splits."""
        return {row[3] for row in self.rows if row[2] in splits}

    @cached_property
    def fitted_on_validation(self) -> bool:
        """Whether a phase of its plan took the validation images in: a linear head, or a refit."""
        path = self.run.path / "plan.yaml"
        if not path.is_file():
            raise RunError(
                f"Run {self.run.path} has no plan.yaml, which says what its weights were fitted on."
            )
        plan = Plan.from_yaml(path.read_text(encoding="utf-8"), str(path))
        return any(phase.fit_on == "train+val" for phase in plan.phases)

    @property
    def trained(self) -> set[str]:
        """Images that may not test it. Copies in its own test split were its data set's doing, which it said."""
        return self.prints("train", "val") - self.prints("test")

    @property
    def fitted(self) -> set[str]:
        """Images that its weights were fitted on."""
        if self.fitted_on_validation:
            return self.prints("train", "val")
        return self.prints("train") - self.prints("val")


def read_candidates(runs: Iterable[str | os.PathLike[str]], at_least: int = 2) -> list[Candidate]:
    """Open the runs and hold their classes against each other's.

    Raises ConfigError for too few or a doubled one, RunError for unfinished runs, ensembles, other tasks and classes.
    """
    paths = [Path(run) for run in runs]
    if len(paths) < at_least:
        raise ConfigError(must("RUN RUN ...", f"at least {at_least} finished runs", len(paths)))
    doubled = sorted({str(path) for path in paths if [p.resolve() for p in paths].count(path.resolve()) > 1})
    if doubled:
        raise ConfigError(must("RUN RUN ...", "different runs", f"{doubled[0]!r} more than once"))
    found = [Candidate(open_run(path)) for path in paths]
    first = found[0].run
    for other in (candidate.run for candidate in found):
        if other.folder.members():
            raise RunError(
                must(
                    f"Run {str(other.path)!r}",
                    "of a single network",
                    "an ensemble",
                    "Name its members' runs.",
                )
            )
        if other.task != first.task:
            raise RunError(
                must(
                    f"The task of run {str(other.path)!r}",
                    f"that of {str(first.path)!r} ({first.task.name}), to be put together",
                    other.task.name,
                )
            )
        if other.classes != first.classes:
            raise RunError(
                must(
                    f"The classes of run {str(other.path)!r}",
                    f"those of {str(first.path)!r} ({_some(first.classes)})",
                    _some(other.classes),
                )
            )
    return found


def own_images(candidates: Sequence[Candidate]) -> DataBundle:
    """The images of the first run, split as it split them. Raises RunError and DataError."""
    from finetune.data.load import load_data

    first = candidates[0].run
    if first.recipe.data.path is None:
        raise RunError(
            f"Run {first.path} was made from images in memory, which its folder does not keep. "
            "Give test images: --data DIR, or data=bundle from Python."
        )
    bundle = load_data(first.recipe.data, first.recipe.seed)
    first.folder.require_same_images(bundle)
    return bundle


def refuse_tested_on_trained(candidates: Sequence[Candidate], images: ImageSet) -> None:
    """Raises RunError where a test image taught one of the runs."""
    for candidate in candidates:
        taught = _shared(images, candidate.trained)
        if taught:
            raise RunError(
                f"Run {candidate.run.path} saw {len(taught)} of the {len(images)} test images in training or "
                f"validation (the first: {taught[0]!r}), so nothing that it is part of can be tested on them. "
                "Train the runs on the same splits (data.split_seed=0), or test on other images: --data DIR."
            )


def refuse_chosen_on_fitted(candidates: Sequence[Candidate], images: ImageSet) -> None:
    """Raises RunError where an image to choose on taught one of the runs: it would be chosen for its memory."""
    for candidate in candidates:
        taught = _shared(images, candidate.fitted)
        if taught:
            raise RunError(
                f"Run {candidate.run.path} was fitted on {len(taught)} of the {len(images)} images to choose on "
                f"(the first: {taught[0]!r}), and would be chosen for knowing them by heart. Train it with "
                "train.refit=false (strategies linear and multistage: probe.fit_on=train), or choose on other images: "
                "--select DIR."
            )


def _shared(images: ImageSet, prints: set[str]) -> list[str]:
    return [images.name(i) for i in range(len(images)) if images.fingerprint(i).hex() in prints]


def merged_rows(candidates: Sequence[Candidate]) -> list[tuple[str, ...]]:
    """splits.csv of what is made of the runs: an image is where it taught most, train before val before test."""
    rank = {"train": 0, "val": 1, "test": 2}
    rows: dict[tuple[str, str, str], str] = {}
    for candidate in candidates:
        for name, label, split, fingerprint in candidate.rows:
            key = (name, label, fingerprint)
            rows[key] = min(rows.get(key, split), split, key=lambda s: rank[s])
    return [(name, label, split, fingerprint) for (name, label, fingerprint), split in rows.items()]


def _some(names: Sequence[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
