"""Which augmentations the labels mind: copies of the training images, a probe that never saw them, a verdict.

A mirrored left arrow is a right arrow, and no amount of training on it helps. Each family of augmentation
that a plan's policies use is applied, alone, to at most 500 training images; a ridge probe on all stages of the
frozen backbone, fitted on other images, answers for each image and its copy. A drop of more than two standard
errors of the paired difference is the sign that the labels mind.

For a flip, which loses nothing, that sign is enough. The other families damage a picture by design: half of a
photograph is harder to name than the whole, and banning crops for that would ban them everywhere. There the
probe is fitted once more with copies beside the originals, and the drop must not go away:

- colour: on the copies. Where the colour was the label, no fitting brings it back.
- crop, rotation: on the untouched images. Where a copy looks like another class, learning from copies costs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from finetune.data import AUGMENTATIONS
from finetune.data.augment import Augmentation
from finetune.data.imageset import ImageSet
from finetune.data.mirroring import flip_safe
from finetune.events import Listener
from finetune.features.ridge import RidgeFit, fit_ridge
from finetune.features.scaling import Standardiser
from finetune.recipe import Recipe
from finetune.strategy.evidence import frozen_features
from finetune.strategy.measure import sample_indices
from finetune.strategy.plan import GradientPhase, Plan

if TYPE_CHECKING:
    from finetune.zoo.backbone import Backbone

MAX_IMAGES = 500
MIN_IMAGES = 12
MOST_CLASSES = 100
"""Of more classes a hundred are looked at, so that each has images to learn from and to hold out."""
FOLDS = 5
ERRORS = 2.0
"""Standard errors of the paired difference that a drop must exceed."""
_VERSION = 1  # of the copies' pixels; part of what their features are cached by


@dataclass(frozen=True)
class Drop:
    """How much accuracy (a share) is lost, paired image by image, and its standard error."""

    value: float
    se: float

    @property
    def real(self) -> bool:
        """Whether it is beyond the noise."""
        return self.value > ERRORS * self.se

    @classmethod
    def of(cls, before: np.ndarray, after: np.ndarray) -> Drop:
        """(N,) shares of right answers for each image; one image more is counted as changed, so that a
        handful of images cannot prove anything."""
        difference = before - after
        n, mean = len(difference), float(difference.mean())
        spread = float(np.square(difference).sum()) + 1 - n * mean**2
        return cls(mean, float(np.sqrt(max(spread, 0.0))) / n)


@dataclass(frozen=True)
class Trial:
    """One family of augmentation at one policy's strength, and whether the labels mind it."""

    family: str
    policy: str
    banned: bool
    why: str
    images: int = 0
    accuracy: float | None = None
    """Of the probe on held-out originals, a share."""
    drop: Drop | None = None
    """On their copies."""
    remains: Drop | None = None
    """Of the drop, after the probe has learned from copies too; None where that was not asked."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        tree: dict[str, Any] = {"family": self.family, "policy": self.policy, "banned": self.banned}
        tree |= {"why": self.why, "images": self.images, "accuracy": self.accuracy}
        for key, drop in (("drop", self.drop), ("remains", self.remains)):
            tree[key] = None if drop is None else {"value": drop.value, "se": drop.se}
        return tree


class Copies(ImageSet):
    """Every image of a set changed by one family of a policy; the same copy whenever it is asked for."""

    def __init__(self, base: ImageSet, policy: Augmentation, family: str, copy: int) -> None:
        self.base, self.policy, self.family = base, policy, family
        self.classes, self.labels = base.classes, base.labels
        self._mark = f"{type(policy).__name__}/{family}/{copy}/{_VERSION}".encode()

    def load(self, index: int) -> Image.Image:
        """A frame that evaluation scales by 1 and crops to exactly the augmented pixels."""
        seed = int.from_bytes(self.fingerprint(index)[:8], "little")
        pixels = self.policy.alone(self.family, self.base.load(index), np.random.default_rng(seed))
        side, scale = self.policy.prep.size, self.policy.prep.scale_size
        margin = max(0, round((scale - side) / 2.0))
        frame = np.zeros((max(scale, side), max(scale, side), 3), dtype=np.uint8)
        frame[margin : margin + side, margin : margin + side] = pixels
        return Image.fromarray(frame)

    def name(self, index: int) -> str:
        return f"{self.base.name(index)} ({self.family})"

    def fingerprint(self, index: int) -> bytes:
        return hashlib.sha256(self._mark + self.base.fingerprint(index)).digest()


def try_augmentations(
    plan: Plan, backbone: Backbone, images: ImageSet, recipe: Recipe, listener: Listener
) -> tuple[Trial, ...]:
    """A trial for each family that a gradient phase of the plan uses; none where nothing trains.

    Costs a forward pass of at most 500 images for each; the features of the copies are cached like all others.
    """
    wanted = _used(plan)
    if not wanted:
        return ()
    named = [pair for pair in wanted if pair[1] == "flip" and not flip_safe(images.classes)]
    trials = [Trial(family, policy, True, "the class names say so") for policy, family in named]
    wanted = [pair for pair in wanted if pair not in named]
    chosen = sample(images.labels, recipe.seed)
    too_few = len(chosen) < MIN_IMAGES or len(np.unique(images.labels[chosen])) < 2
    if too_few or not recipe.pretrained:
        why = "too few images to tell" if too_few else "an untrained network cannot tell"
        return (*trials, *(Trial(family, policy, False, why) for policy, family in wanted))
    originals = images.subset(chosen)
    count = 2 if len(chosen) <= MAX_IMAGES // 4 else 1
    clean = _taps(backbone, originals, recipe, listener)
    for policy, family in wanted:
        made = AUGMENTATIONS.get(policy)(backbone.preprocessing)
        copies = [_taps(backbone, Copies(originals, made, family, i), recipe, listener) for i in range(count)]
        trials.append(judge(family, policy, clean, copies, originals.labels, recipe.seed))
    return tuple(trials)


def spare(plan: Plan, families: Collection[str]) -> Plan:
    """The plan without these families, in the phases whose policy uses them."""

    def spared(phase: Any) -> Any:
        if not isinstance(phase, GradientPhase):
            return phase
        avoid = tuple(f for f in _families(phase.policy) if f in families or f in phase.avoid)
        return phase.model_copy(update={"avoid": avoid}) if avoid != phase.avoid else phase

    return plan.model_copy(update={"phases": tuple(spared(phase) for phase in plan.phases)})


def sample(labels: np.ndarray, seed: int) -> np.ndarray:
    """At most 500 indices, stratified, of at most a hundred classes with two images or more."""
    classes, counts = np.unique(labels, return_counts=True)
    classes = classes[counts >= 2]
    if len(classes) > MOST_CLASSES:
        classes = np.random.default_rng(seed).choice(classes, MOST_CLASSES, replace=False)
    inside = np.flatnonzero(np.isin(labels, classes))
    return inside[sample_indices(labels[inside], MAX_IMAGES, seed)] if len(inside) else inside


def judge(
    family: str, policy: str, clean: Sequence[np.ndarray], copies: Sequence[Sequence[np.ndarray]],
    labels: np.ndarray, seed: int = 0,
) -> Trial:  # fmt: skip
    """The verdict from features: ``clean`` (N, C_i) of each stage, ``copies`` the same of each copy."""
    names, y = np.unique(labels, return_inverse=True)
    right = {key: np.zeros(len(y)) for key in ("clean", "copies", "learned clean", "learned copies")}
    learns = family != "flip"
    for held in _folds(y, seed):
        rest = ~held
        scale = Standardiser.fit([tap[rest] for tap in clean])
        x = scale.transform(clean)
        others = [scale.transform(taps) for taps in copies]
        fit = fit_ridge(x[rest], y[rest], len(names))
        share = np.bincount(y[rest], minlength=len(names)) / rest.sum()
        truth, kept = y[held], [z[held] for z in others]
        right["clean"][held] = _right(fit, share, x[held], truth)
        right["copies"][held] = np.mean([_right(fit, share, z, truth) for z in kept], axis=0)
        if not learns:
            continue
        joined = np.concatenate([x[rest], *(z[rest] for z in others)])
        # The strength is that of the originals: beside its own copy no image is left out of anything.
        both = fit_ridge(joined, np.tile(y[rest], 1 + len(others)), len(names), (fit.lambda_,))
        right["learned clean"][held] = _right(both, share, x[held], truth)
        right["learned copies"][held] = np.mean([_right(both, share, z, truth) for z in kept], axis=0)
    accuracy = float(right["clean"].mean())
    drop = Drop.of(right["clean"], right["copies"])
    remains = None
    if learns:
        after = "learned copies" if family == "colour" else "learned clean"
        remains = Drop.of(right["clean"], right[after])
    banned = drop.real and (remains is None or remains.real)
    chance = float(np.bincount(y).max() / len(y))
    if accuracy <= chance + ERRORS * np.sqrt(max(accuracy * (1 - accuracy), 1 / len(y)) / len(y)):
        banned, why = False, "the probe cannot tell the classes, so it cannot judge"
    else:
        why = _why(drop, remains)
    return Trial(family, policy, banned, why, len(y), accuracy, drop, remains)


def _right(fit: RidgeFit, share: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N,) 1.0 where the probe is right; ``share`` of each class is taken out, as in ``loo_accuracy``."""
    answers = (x @ fit.weight.T + fit.bias - share).argmax(axis=1)
    return np.asarray(answers == y, dtype=np.float64)


def _why(drop: Drop, remains: Drop | None) -> str:
    def points(d: Drop) -> str:
        return f"{100 * d.value:.1f} +- {100 * d.se:.1f} points"

    if not drop.real:
        return f"a probe loses {points(drop)} on such copies, within the noise"
    if remains is None:
        return f"a probe loses {points(drop)} on such copies"
    if remains.real:
        return f"a probe loses {points(drop)} on such copies, and {points(remains)} even after learning from them"
    return f"a probe loses {points(drop)} on such copies, but not after learning from them"


def _used(plan: Plan) -> list[tuple[str, str]]:
    """(policy, family) of every gradient phase, each once."""
    found = [
        (phase.policy, family)
        for phase in plan.phases
        if isinstance(phase, GradientPhase)
        for family in _families(phase.policy)
        if family not in phase.avoid
    ]
    return list(dict.fromkeys(found))


def _families(policy: str) -> tuple[str, ...]:
    kind: Any = AUGMENTATIONS.get(policy)
    return tuple(getattr(kind, "families", ()))


def _folds(y: np.ndarray, seed: int) -> list[np.ndarray]:
    """(N,) masks of the held-out images of each fold; every class is spread over the folds."""
    part = np.empty(len(y), dtype=np.int64)
    rng = np.random.default_rng((seed, FOLDS))
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        part[members] = (np.arange(len(members)) + rng.integers(FOLDS)) % FOLDS
    return [part == fold for fold in range(FOLDS) if (part == fold).any()]


def _taps(backbone: Backbone, images: ImageSet, recipe: Recipe, listener: Listener) -> list[np.ndarray]:
    return frozen_features(recipe, images, backbone, listener, "trying the augmentations").taps
