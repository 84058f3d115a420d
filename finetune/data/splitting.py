"""The rules by which train, validation and test come about, whatever the images were read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from finetune.data.folds import folds_of
from finetune.data.imageset import DataBundle, ImageSet, Joined, Quarantined
from finetune.data.leaking import enough, leaking, said
from finetune.data.sameness import repeated, require_different, too_few_different
from finetune.data.split_notes import copies, divided, leaks, rare
from finetune.data.splits import carve, carve_groups, carve_least, limit
from finetune.data.stratify import carve_labels, limit_labels
from finetune.errors import ConfigError, DataError, must
from finetune.recipe import DataRecipe
from finetune.task import MULTI_LABEL, REGRESSION

_BY = {"single-label": "class", "multi-label": "label", "regression": "value"}
_LIMIT = {
    "single-label": "At most {} images a class",
    "multi-label": "{} images of each label and of none, or all where there are fewer, and what else those have,",
    "regression": "At most {} images of each tenth of the numbers",
}


def split_sets(
    given: Mapping[str, ImageSet],
    recipe: DataRecipe,
    seed: int,
    *,
    notes: Sequence[str] = (),
    quarantined: tuple[Quarantined, ...] = (),
    source: str = "",
    names: Mapping[str, str] | None = None,
    groups: Mapping[str, Sequence[object]] | None = None,
) -> DataBundle:
    """Make the missing splits, by class and with the seed; copies of one image stay on one side.

    ========================  =====================================================================
    given                     what happens
    ========================  =====================================================================
    all, or train alone       test_fraction becomes the test set, val_fraction the validation set
    train, val                val is the *test* set (nothing is tuned on it), val_fraction of train validates
    train, test               val_fraction of train validates
    train, val, test          used as they are, but for val's exact copies of training images
    ========================  =====================================================================

    Such copies are left out of validation. Where hardly any other image remains, validation is carved out of train.

    With ``folds`` the recipe's fold of all (of train and val, where given) is the test set, val_fraction of the others
    validates, and a given test set is left alone.

    ``limit_per_class`` bounds what training may see of a class: the training and validation images together
    where validation is carved out of train, each of the two where both are given. The test set is never cut. Of
    labels see ``limit_labels``; numbers are limited in each of the groups that they are stratified by.

    Args:
        given: sets by "all", "train", "val", "test"; all with the same classes.
        names: how the user calls them, for the notes.
        groups: the group of each image of a set (a patient, a track); no split made here divides one, and groups
            that the given sets share are told.

    Raises:
        DataError: too few images for a validation or a test set.
    """
    seed = seed if recipe.split_seed is None else recipe.split_seed
    told = list(notes)
    called = dict(names or {})
    main = "all" if "all" in given else "train"
    pool, tracks = given[main], _Tracks((groups or {}).get(main))
    require_different(pool)
    told += [*divided(groups or {}, called), *repeated(pool)]
    val, test = given.get("val"), given.get("test")
    share = recipe.val_fraction
    if recipe.folds is not None:
        if val is not None:
            pool, tracks = Joined(pool, val), _joined_tracks(pool, val, groups or {}, main)
        kept, held = _fold(pool, recipe, seed, tracks)
        told.append(_said_of_fold(recipe, seed, _BY[pool.task.name], "test" in given, called))
        told += copies(pool)
        pool, test, val = pool.subset(kept), pool.subset(held), None
        tracks.keep(kept)
    elif val is not None and test is None:
        told.append(
            f"{called.get('val', 'val')} was given but no test set: it is the test set, and nothing is tuned "
            f"on it; validation is {share:.0%} of {called.get('train', 'train')}."
        )
        val, test = None, val
    elif test is not None and val is None:
        told.append(f"No validation set was given: it is {share:.0%} of {called.get('train', 'train')}.")
    elif test is None:
        rest = 1 - recipe.val_fraction - recipe.test_fraction
        told.append(
            f"No validation or test set was given: the images are split {rest:.0%} / "
            f"{recipe.val_fraction:.0%} / {recipe.test_fraction:.0%} by {_BY[pool.task.name]} with seed {seed}."
        )
        share = recipe.val_fraction / (1 - recipe.test_fraction)
    if recipe.folds is None:
        told += copies(pool)
    leaky, found = val, ""
    if val is not None:
        carved = f"{share:.0%} of {called.get(main, main)}"
        pool, val, found = _without_leaks(pool, val, tracks, groups or {}, main, carved)

    if test is None:
        kept, held = tracks.carve(pool, recipe.test_fraction, seed)
        pool, test = pool.subset(kept), pool.subset(held)
    if recipe.limit_per_class is not None:
        few = _limited(pool, recipe.limit_per_class, seed)
        pool = pool.subset(few)
        tracks.keep(few)
        val = val.subset(_limited(val, recipe.limit_per_class, seed)) if val is not None else None
        what = "of which validation takes its share" if val is None else "in training and in validation"
        told.append(f"{_LIMIT[pool.task.name].format(recipe.limit_per_class)} are used, {what}.")
    if val is None:
        kept, held = tracks.carve(pool, share, seed)
        if leaky is not None and not len(held):
            val, found = leaky, ""  # too few images to carve: better validation that flatters than none
        else:
            pool, val = pool.subset(kept), pool.subset(held)
    told += [found] if found else []

    _require_some(pool, val, test, recipe, grouped=tracks.groups is not None)
    told += rare(pool, val, test)
    told += leaks(pool, val, test)
    return DataBundle(pool, val, test, quarantined=quarantined, notes=tuple(told), source=source)


def _without_leaks(
    pool: ImageSet,
    val: ImageSet,
    tracks: _Tracks,
    groups: Mapping[str, Sequence[object]],
    main: str,
    carved: str,
) -> tuple[ImageSet, ImageSet | None, str]:
    """(training, validation, what is told or nothing): without validation images that training holds too.

    None for validation where too few others remain; those are training images then.
    """
    leaked = leaking(pool, val)
    if not leaked.any():
        return pool, val, ""
    others = np.flatnonzero(~leaked)
    if enough(val, leaked):
        return pool, val.subset(others), said(leaked, None)
    if len(others):
        kept = np.concatenate([np.arange(len(pool)), len(pool) + others])
        tracks.groups = _joined_tracks(pool, val, groups, main).groups
        tracks.keep(kept)
        pool = Joined(pool, val).subset(kept)
    return pool, None, said(leaked, carved)


def _limited(images: ImageSet, most: int, seed: int) -> np.ndarray:
    """Indices of the images that data.limit_per_class leaves."""
    if images.task == MULTI_LABEL:
        return limit_labels(images.targets, most, seed)
    return limit(images.labels, most, seed)  # of numbers: their tenths


def _fold(pool: ImageSet, recipe: DataRecipe, seed: int, tracks: _Tracks) -> tuple[np.ndarray, np.ndarray]:
    """(images that train and validate, images of the recipe's fold)."""
    if recipe.folds is None or recipe.fold is None:
        remedy = "`finetune run` trains every fold; anything else looks at one: data.fold=1."
        raise ConfigError(must("data.fold", "given beside data.folds here", recipe.fold, remedy))
    groups = None if tracks.groups is None else tracks.groups.tolist()
    held = folds_of(pool, recipe.folds, seed, groups) == recipe.fold - 1
    return np.flatnonzero(~held), np.flatnonzero(held)


def _said_of_fold(recipe: DataRecipe, seed: int, by: str, tested: bool, called: Mapping[str, str]) -> str:
    said = (
        f"Fold {recipe.fold} of {recipe.folds} by {by} with seed {seed} is the test set; validation is "
        f"{recipe.val_fraction:.0%} of the others."
    )
    return f"{said} {called.get('test', 'test')} takes no part in it." if tested else said


def _joined_tracks(
    pool: ImageSet, val: ImageSet, groups: Mapping[str, Sequence[object]], main: str
) -> _Tracks:
    if main not in groups and "val" not in groups:
        return _Tracks(None)
    first = groups.get(main, [f"{main} {i}" for i in range(len(pool))])
    return _Tracks([*first, *groups.get("val", [f"val {i}" for i in range(len(val))])])


class _Tracks:
    """The groups of the images that are still to be divided; without groups, every image is its own."""

    def __init__(self, groups: Sequence[object] | None) -> None:
        self.groups = None if groups is None else np.asarray(groups, dtype=object)

    def keep(self, indices: np.ndarray) -> None:
        """The images are now a subset of what they were."""
        if self.groups is not None:
            self.groups = self.groups[indices]

    def carve(self, images: ImageSet, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(kept, held out); afterwards the images are those that were kept."""
        prints = images.fingerprints()
        together = (prints,) if self.groups is None else (self.groups.tolist(), prints)
        if images.task == MULTI_LABEL:
            kept, held = carve_labels(images.targets, share, seed, together)
        elif self.groups is None:
            return _reunited(*carve(images.labels, share, seed, prints), prints)
        else:
            kept, held = carve_groups(images.labels, share, seed, together)
            strata = images.labels
            while not len(held) and images.task == REGRESSION and strata.any():
                strata = (
                    strata // 2
                )  # each group is a tenth of the numbers of its own: coarser parts, at last one
                kept, held = carve_groups(strata, share, seed, together)
            if not len(held) and len(images) and images.task.plain:
                kept, held = carve_least(images.labels, seed, together)
        self.keep(kept)
        return kept, held


def _reunited(kept: np.ndarray, held: np.ndarray, prints: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """``carve`` goes class by class: copies under two classes may lie on both sides, and are all kept then."""
    inside = {prints[i] for i in kept.tolist()}
    back = np.array([prints[i] in inside for i in held.tolist()], dtype=bool)
    if back.all():  # nothing would be held out; that they lie on both sides is told
        return kept, held
    return np.sort(np.concatenate([kept, held[back]])), held[~back]


def _require_some(train: ImageSet, val: ImageSet, test: ImageSet, recipe: DataRecipe, grouped: bool) -> None:
    for name, part in (("validation", val), ("test", test)):
        if len(part):
            continue
        if not train.task.plain:
            more = (
                "Add images."
                if recipe.limit_per_class is None
                else "Raise data.limit_per_class, or add images."
            )
            raise DataError(must("The images", "enough for training, validation and test sets",
                                 f"{len(train)} for training and no {name} images", more))  # fmt: skip
        most = np.bincount(train.labels, minlength=1).max()
        if name == "validation" and recipe.limit_per_class == 1:
            raise DataError(
                "data.limit_per_class must be at least 2 where validation is taken from train. "
                "Got 1 instead: with one image a class nothing is left to validate on."
            )
        if grouped:
            raise DataError(
                "At least one class must have images of two groups, one of which can be held out. "
                f"Got no {name} images instead: groups are never divided. Add images of other groups, or change "
                "data.group_by."
            )
        needed = (
            "At least one class must have 3 different images to make training, validation and test sets. "
        )
        if copied := too_few_different(train):
            raise DataError(needed + copied)
        raise DataError(
            f"{needed}Got {most} for training in the largest class instead, and no {name} images. Add images."
        )
