"""Augmentations that the labels mind: planted facts about which must be left out, and how often wrongly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from finetune.data import AUGMENTATIONS
from finetune.data.imageset import ImageSet
from finetune.data.transforms import evaluate_pixels
from finetune.events import Listener
from finetune.features import cache as feature_cache
from finetune.recipe import Recipe
from finetune.strategy import invariance
from finetune.strategy.invariance import Copies, Drop, Trial, judge, sample, spare, try_augmentations
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.zoo.backbone import Backbone
from finetune.zoo.create import create_backbone

SIDE = 48
Draw = Callable[[np.random.Generator], Image.Image]


class Drawn(ImageSet):
    """Pictures in memory."""

    def __init__(self, kinds: dict[str, Draw], each: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.classes = tuple(kinds)
        self.labels = np.repeat(np.arange(len(kinds)), each)
        self.pictures = [kinds[self.classes[k]](rng) for k in self.labels]

    def load(self, index: int) -> Image.Image:
        return self.pictures[index]

    def name(self, index: int) -> str:
        return str(index)

    def fingerprint(self, index: int) -> bytes:
        return self.pictures[index].tobytes()[:64] + self.pictures[index].tobytes()[::997]


def noisy(image: Image.Image, rng: np.random.Generator, strength: float = 12) -> Image.Image:
    pixels = np.asarray(image).astype(float) + rng.normal(0, strength, (SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def grey(rng: np.random.Generator) -> tuple[int, int, int]:
    level = int(rng.integers(30, 90))
    return level, level, level


def arrow(rng: np.random.Generator) -> Image.Image:
    """Pointing right."""
    image = Image.new("RGB", (SIDE, SIDE), grey(rng))
    x, y = (int(v) for v in rng.integers(-3, 4, 2))
    ink = (200, 200, int(rng.integers(150, 255)))
    pen = ImageDraw.Draw(image)
    pen.polygon([(38 + x, 24 + y), (22 + x, 10 + y), (22 + x, 38 + y)], fill=ink)
    pen.rectangle([8 + x, 20 + y, 22 + x, 28 + y], fill=ink)
    return noisy(image, rng)


def mirrored(rng: np.random.Generator) -> Image.Image:
    return arrow(rng).transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def coloured(ink: tuple[int, int, int]) -> Draw:
    def draw(rng: np.random.Generator) -> Image.Image:
        """Discs of any size anywhere, on noise of the same colour: the colour is all there is."""
        image = Image.new("RGB", (SIDE, SIDE), tuple(c // 2 for c in ink))
        x, y, r = rng.integers(12, 36), rng.integers(12, 36), rng.integers(6, 14)
        ImageDraw.Draw(image).ellipse([int(x - r), int(y - r), int(x + r), int(y + r)], fill=ink)
        return noisy(image, rng, 8)

    return draw


def blobs(count: int, radius: int) -> Draw:
    def draw(rng: np.random.Generator) -> Image.Image:
        """Many small discs or few large ones in any colour: none of the changes makes one of the other."""
        image = Image.new("RGB", (SIDE, SIDE), grey(rng))
        ink = tuple(int(v) for v in rng.integers(120, 255, 3))
        for x, y in rng.integers(0, SIDE, (count, 2)):
            box = [int(x - radius), int(y - radius), int(x + radius), int(y + radius)]
            ImageDraw.Draw(image).ellipse(box, fill=ink)
        return noisy(image, rng)

    return draw


@cache
def backbone() -> Backbone:
    return create_backbone("embedded", image_size=SIDE)


def plan(augment: str, **keys: object) -> Plan:
    tune = GradientPhase(train_from=1, epochs=1, lr=0.01, head_lr=0.1, augment=augment).model_copy(
        update=keys
    )
    return Plan(strategy="mine", phases=(ProbePhase(candidates=((4,),)), tune))


def banned(images: ImageSet, augment: str, seed: int = 0) -> set[str]:
    trials = try_augmentations(plan(augment), backbone(), images, Recipe(seed=seed), Listener())
    assert {trial.family for trial in trials} == set(AUGMENTATIONS.get(augment).families)
    return {trial.family for trial in trials if trial.banned}


# --- planted facts -------------------------------------------------------------------------------------


def test_an_image_and_its_mirror_ban_the_flip() -> None:
    assert banned(Drawn({"here": arrow, "there": mirrored}, 24), "light") == {"flip"}


def test_what_the_batched_policy_of_everything_does_is_tried_too() -> None:
    found = banned(Drawn({"here": arrow, "there": mirrored}, 16), "rich")
    assert "flip" in found


def test_single_operations_are_tried_by_their_families() -> None:
    images = Drawn({"here": arrow, "there": mirrored}, 24)
    assert banned(images, "flip+brightness") == {"flip"}
    trials = try_augmentations(plan("crop+hue", crop="short-side"), backbone(), images, Recipe(), Listener())
    assert {(trial.policy, trial.family) for trial in trials} == {
        ("crop+hue/short-side", "crop"), ("crop+hue/short-side", "colour")
    }  # fmt: skip
    freed = spare(plan("crop+flip+noise"), ["flip", "colour"]).phases[1]
    assert isinstance(freed, GradientPhase)
    assert freed.avoid == ("flip",)


def test_copies_of_other_operations_or_crops_are_other_images() -> None:
    images, prep = Drawn({"a": arrow}, 1), backbone().preprocessing
    names = ("crop", "crop+hue", "crop/short-side", "light", "light/short-side")
    marks = {Copies(images, AUGMENTATIONS.get(n)(prep), "crop", 0).fingerprint(0) for n in names}
    assert len(marks) == len(names)


def test_classes_told_by_colour_ban_strong_changes_of_colour() -> None:
    kinds = {
        "bright": coloured((210, 60, 60)),
        "dull": coloured((150, 90, 90)),
        "dark": coloured((110, 30, 30)),
    }
    found = banned(Drawn(kinds, 40), "strong")
    assert "colour" in found
    assert "flip" not in found


def test_what_the_labels_do_not_mind_stays() -> None:
    assert banned(Drawn({"many": blobs(25, 2), "few": blobs(4, 9)}, 30), "strong") == set()


def test_names_that_say_left_and_right_ban_the_flip_untried() -> None:
    images = Drawn({"left": blobs(25, 2), "right": blobs(4, 9)}, 10)
    (trial, *_) = try_augmentations(plan("light"), backbone(), images, Recipe(), Listener())
    assert (trial.family, trial.banned, trial.images) == ("flip", True, 0)
    assert trial.why == "the class names say so"


# --- the statistics ------------------------------------------------------------------------------------


def features(
    n: int, seed: int, kinds: int = 3, shift: float = 0.0, spread: float = 1.0
) -> tuple[list[np.ndarray], list[list[np.ndarray]], np.ndarray]:
    """Two stages of normal features and one copy of each with noise of its own; ``shift`` moves the copies
    of each class towards the next one's centre."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % kinds)
    taps, copies = [], []
    for width in (8, 16):
        centres = rng.normal(0, 0.6, (kinds, width))
        x = centres[labels] + rng.normal(0, spread, (n, width))
        moved = shift * (np.roll(centres, -1, axis=0) - centres)[labels]
        taps.append(x.astype(np.float32))
        copies.append((x + moved + rng.normal(0, 0.3, (n, width))).astype(np.float32))
    return taps, [copies], labels


@pytest.mark.parametrize("family", ["flip", "crop", "colour"])
@pytest.mark.parametrize("n", [24, 150])
def test_false_alarms_are_rare(family: str, n: int) -> None:
    alarms = sum(judge(family, "light", *features(n, seed), seed=seed).banned for seed in range(20))
    assert alarms <= 1


@pytest.mark.parametrize("family", ["flip", "crop", "colour"])
def test_copies_that_look_like_another_class_are_found(family: str) -> None:
    found = [judge(family, "light", *features(150, seed, shift=1.0), seed=seed) for seed in range(10)]
    assert sum(trial.banned for trial in found) >= 9
    assert all(trial.drop is not None and trial.drop.value > 0.3 for trial in found)


def test_a_change_that_can_be_learned_does_not_ban_crops() -> None:
    """Copies in a place of their own: a probe that never saw them fails, one that learned from them does not."""
    taps, (copies,), labels = features(300, 0)
    away = [tap + np.float32(3.0) * np.sign(tap.mean(0)) for tap in copies]
    crop = judge("crop", "light", taps, [away], labels)
    assert crop.drop is not None
    assert crop.remains is not None
    assert crop.drop.value > crop.remains.value
    assert not crop.banned


def test_a_probe_that_cannot_tell_the_classes_judges_nothing() -> None:
    taps, copies, _ = features(100, 0)
    labels = np.random.default_rng(1).integers(0, 3, 100)
    trial = judge("flip", "light", taps, copies, labels)
    assert not trial.banned
    assert trial.why == "the probe cannot tell the classes, so it cannot judge"


def test_the_error_of_a_paired_difference() -> None:
    """Close to the textbook's for many images; never zero, so that four of a dozen prove nothing much."""
    rng = np.random.default_rng(0)
    before, after = rng.integers(0, 2, 4000).astype(float), rng.integers(0, 2, 4000).astype(float)
    drop = Drop.of(before, after)
    assert drop.value == pytest.approx((before - after).mean())
    assert drop.se == pytest.approx((before - after).std() / np.sqrt(4000), rel=1e-3)
    same = Drop.of(before, before)
    assert same.value == 0
    assert same.se > 0
    assert not Drop.of(np.ones(12), np.array([0.0] * 3 + [1.0] * 9)).real
    assert Drop.of(np.ones(12), np.array([0.0] * 6 + [1.0] * 6)).real


# --- the pieces ----------------------------------------------------------------------------------------


def test_the_network_sees_exactly_the_augmented_pixels() -> None:
    images = Drawn({"a": arrow, "b": mirrored}, 3)
    policy = AUGMENTATIONS.get("strong")(backbone().preprocessing)
    for family in policy.families:
        copies = Copies(images, policy, family, 0)
        for i in range(len(images)):
            seed = int.from_bytes(copies.fingerprint(i)[:8], "little")
            expected = policy.alone(family, images.load(i), np.random.default_rng(seed))
            assert np.array_equal(evaluate_pixels(copies.load(i), policy.prep), expected)
        others = {Copies(images, policy, f, c).fingerprint(0) for f in policy.families for c in (0, 1)}
        assert len(others) == 8
    assert copies.name(2) == "2 (rotation)"


def test_copies_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Drawn({"here": arrow, "there": mirrored}, 8)
    feature_cache.forget()
    first = try_augmentations(plan("light"), backbone(), images, Recipe(), Listener())
    feature_cache.forget()

    def never(*args: object) -> np.ndarray:
        raise AssertionError("decoded again")

    monkeypatch.setattr(Drawn, "load", never)
    assert try_augmentations(plan("light"), backbone(), images, Recipe(), Listener()) == first


def test_nothing_is_tried_where_nothing_trains_or_nothing_is_augmented() -> None:
    images = Drawn({"a": arrow, "b": mirrored}, 8)
    head = Plan(strategy="mine", phases=(ProbePhase(candidates=((4,),)),))
    for found in (head, plan("none"), plan("light", avoid=("flip", "crop"))):
        assert try_augmentations(found, backbone(), images, Recipe(), Listener()) == ()


def test_too_few_images_to_tell() -> None:
    images = Drawn({"here": arrow, "there": mirrored}, 2)
    trials = try_augmentations(plan("light"), backbone(), images, Recipe(), Listener())
    assert [(t.banned, t.why) for t in trials] == [(False, "too few images to tell")] * 2


def test_an_untrained_network_is_not_asked() -> None:
    images = Drawn({"left": arrow, "right": mirrored}, 12)
    recipe = Recipe(pretrained=False)
    trials = try_augmentations(plan("light"), backbone(), images, recipe, Listener())
    assert [(t.family, t.banned) for t in trials] == [("flip", True), ("crop", False)]  # names still tell
    assert trials[1].why == "an untrained network cannot tell"


def test_the_sample_is_bounded_and_stratified() -> None:
    labels = np.repeat(np.arange(400), 9)
    labels[-5] = 400  # a class of one
    chosen = sample(labels, 0)
    counts = np.bincount(labels[chosen])
    assert len(chosen) <= invariance.MAX_IMAGES
    assert np.count_nonzero(counts) == invariance.MOST_CLASSES
    assert set(counts[counts > 0]) == {5}
    assert len(sample(np.arange(50), 0)) == 0


def test_spare_keeps_what_was_avoided_and_touches_only_policies_that_use_the_family() -> None:
    def avoided(found: Plan) -> Sequence[str]:
        tune = found.phases[1]
        assert isinstance(tune, GradientPhase)
        return tune.avoid

    assert avoided(spare(plan("strong"), ["colour", "flip"])) == ("flip", "colour")
    assert avoided(spare(plan("light"), ["colour", "flip"])) == ("flip",)
    assert avoided(spare(plan("light", avoid=("crop",)), ["flip"])) == ("flip", "crop")
    assert avoided(spare(plan("none"), ["flip"])) == ()
    assert plan("light") == spare(plan("light"), [])


def test_trials_as_plain_values() -> None:
    trial = Trial("flip", "light", True, "because", 40, 0.9, Drop(0.4, 0.05))
    tree = trial.to_dict()
    assert tree["drop"] == {"value": 0.4, "se": 0.05}
    assert tree["remains"] is None


def test_a_run_leaves_them_out(tmp_path: Path) -> None:
    from finetune.api import run

    images = Drawn({"here": arrow, "there": mirrored}, 20)
    for i, picture in enumerate(images.pictures):
        folder = tmp_path / "data" / images.classes[images.labels[i]]
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{i}.png")
    keys = {"data": {"path": str(tmp_path / "data"), "image_size": SIDE}, "strategy": "partial"}
    train = {"epochs": 1, "precision": "fp32", "refit": False}
    found = run({**keys, "train": train, "out": str(tmp_path / "r")}, figures=False)
    trials = {t["family"]: t for t in found.decision["augmentations"]}
    assert trials["flip"]["banned"]
    assert "avoid:\n  - flip\n" in (found.path / "plan.yaml").read_text()
    asked = run({**keys, "train": {**train, "avoid": ["crop"]}, "out": str(tmp_path / "s")}, figures=False)
    assert asked.decision["augmentations"] == []
    assert "avoid:\n  - crop\n" in (asked.path / "plan.yaml").read_text()
