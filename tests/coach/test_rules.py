"""The rules on planted curves, where the answer is known by construction."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from finetune.coach.curve import Curve
from finetune.coach.diagnose import diagnose, diagnose_phases
from finetune.coach.finding import NAMES, Facts
from finetune.coach.folder import counted_facts, phase_facts
from finetune.coach.live import Live
from finetune.coach.statistics import binomial_error, theil_sen
from finetune.errors import RunError
from finetune.recipe import Recipe, apply_overrides

EPOCHS, PER = 20, 10
FACTS = Facts(classes=10, train_n=800, val_n=400, lr=0.1, schedule="cosine", batch=16, augment="light")


def rows(
    loss: Any, accuracy: Any, val_loss: Any = None, val_accuracy: Any = None, *, lr: float | None = None,
    first: float = math.log(10), noise: float = 0.01,
) -> list[dict[str, Any]]:  # fmt: skip
    """A run from functions of the share that is done; validation as training where it is left out."""
    rng = random.Random(0)
    place = {"phase": "p", "phase_index": 0, "epochs": EPOCHS, "steps": EPOCHS * PER * 5}
    found = [{**place, "kind": "first", "epoch": 1, "step": 1, "lr": 0.1, "loss": first, "accuracy": 0.1}]
    for epoch in range(1, EPOCHS + 1):
        for i in range(1, PER + 1):
            t = (epoch - 1 + i / PER) / EPOCHS
            rate = lr if lr is not None else 0.1 * (1 + math.cos(math.pi * t)) / 2
            now = {**place, "epoch": epoch, "step": ((epoch - 1) * PER + i) * 5, "lr": rate}
            found.append(
                {**now, "kind": "step", "loss": loss(t) * (1 + rng.gauss(0, noise)), "accuracy": accuracy(t)}
            )
        val = {"val_loss": (val_loss or loss)(t), "val_accuracy": (val_accuracy or accuracy)(t)}
        found.append({**now, "kind": "epoch", "loss": loss(t), "accuracy": accuracy(t), **val})
    return found


def falls(to: float = 0.05, speed: float = 12.0, start: float = math.log(10)) -> Any:
    return lambda t: to + (start - to) * math.exp(-speed * t)


def rises(to: float = 0.97, speed: float = 12.0) -> Any:
    return lambda t: to + (0.1 - to) * math.exp(-speed * t)


def named(found: list[dict[str, Any]], facts: Facts = FACTS) -> list[str]:
    return [finding.name for finding in diagnose(found, facts)]


PLANTED: dict[str, list[dict[str, Any]]] = {
    "healthy": rows(falls(), rises()),
    "lr too high": rows(lambda t: 6.0 * math.exp(-20 * t) + 2.31, lambda t: 0.1),
    "lr too low": rows(lambda t: 2.3 - 0.1 * math.sin(math.pi * t / 2), lambda t: 0.1 + 0.1 * t),
    "wrong direction": rows(lambda t: 2.3 * math.exp(8 * t), lambda t: 0.01),
    "bad initialisation": rows(falls(start=40), rises(), first=60.0),
    "overfitting": rows(falls(0.001), rises(1.0), lambda t: 0.8 + (t - 0.2) ** 2, rises(0.75)),
    "underfitting": rows(falls(1.4), rises(0.5)),
    "plateau": rows(falls(0.5), rises(0.85), lr=0.1),
    "label noise": rows(
        lambda t: 2.3 * (1 - t) + 0.01, lambda t: 0.1 + 0.9 * t, lambda t: 1 + 2 * abs(t - 0.3),
        lambda t: 0.8 - abs(t - 0.3) / 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_come_first(fault: str) -> None:
    finding = diagnose(PLANTED[fault], FACTS)[0]
    assert finding.name == fault
    assert finding.sentence.endswith(".")
    if finding.severity != "note":
        assert finding.evidence
        assert finding.remedy


@pytest.mark.parametrize("fault", PLANTED)
def test_every_change_is_a_recipe_key_with_a_valid_value(fault: str) -> None:
    for finding in diagnose(PLANTED[fault], FACTS):
        if finding.key is not None:
            tree = apply_overrides({}, [finding.change], Recipe)
            Recipe.from_mapping(tree)


def test_learning_rates_are_changed_by_ten() -> None:
    assert diagnose(PLANTED["lr too high"], FACTS)[0].change == "train.lr=0.01"
    assert diagnose(PLANTED["lr too low"], FACTS)[0].change == "train.lr=1"
    assert diagnose(PLANTED["plateau"], Facts(classes=10, val_n=400, schedule="constant"))[0].change == (
        "train.schedule=cosine"
    )


def test_a_loss_that_is_no_number_is_divergence_and_nothing_else() -> None:
    found = rows(falls(), rises())[:50]
    found.append({**found[-1], "kind": "diverged", "step": 240, "loss": None})
    assert named(found) == ["diverged"]
    assert "step 240" in diagnose(found, FACTS)[0].sentence
    found[-1]["kind"] = "step"  # another program's null
    assert named(found) == ["diverged"]


def test_a_training_that_went_back_is_read_as_it_went_on() -> None:
    """The rows that were undone are forgotten; that they were is said."""
    good = PLANTED["healthy"]
    undone = [{**row, "loss": 50.0} for row in good[60:80] if row["kind"] == "step"]
    broken = {**undone[-1], "kind": "diverged", "loss": None, "reason": "The smoothed loss is high"}
    assert "The smoothed loss is high" in diagnose([*good[:60], *undone, broken], FACTS)[0].sentence
    live = Curve([*good[:60], *undone, broken, *good[60:]], FACTS)
    assert live.losses == Curve(good, FACTS).losses
    assert live.broken is None
    again = diagnose(good, Facts(**{**FACTS.to_dict(), "rollbacks": 2}))[0]
    assert (again.name, again.severity, again.change) == ("diverged", "warning", "train.lr=0.025")


def test_a_wrong_sign_that_ends_in_no_number_is_known_by_answers_worse_than_guessing() -> None:
    """16 images a step, 2 right of 320 where guessing has 32: five standard errors below."""
    found = rows(falls(), rises())[:1]
    found.append({**found[0], "kind": "diverged", "step": 20, "loss": None, "accuracy": 0.006})
    assert named(found) == ["wrong direction", "diverged"]
    found[-1]["accuracy"] = 0.1
    assert named(found) == ["diverged"]


def test_small_validation_sets_show_their_interval() -> None:
    tiny = Facts(classes=10, train_n=800, val_n=20, lr=0.1, schedule="cosine", val_fraction=0.15)
    finding = diagnose(rows(falls(), rises(), val_accuracy=lambda t: 0.9), tiny)[0]
    assert (finding.name, finding.severity) == ("validation too small", "note")
    assert finding.evidence["interval"] == pytest.approx((0.699, 0.972), abs=1e-3)  # Wilson, 18 of 20
    assert "70 to 97%" in finding.sentence
    assert finding.change == "data.val_fraction=0.3"


def test_gaps_within_the_error_of_few_validation_images_are_no_overfitting() -> None:
    gap = rows(falls(0.001), rises(1.0), falls(0.5), rises(0.88))
    assert "overfitting" in named(gap)
    assert "overfitting" not in named(gap, Facts(classes=10, val_n=15))


def test_harder_training_images_excuse_a_low_training_accuracy() -> None:
    found = rows(falls(0.8), rises(0.7), falls(0.3), rises(0.9))
    assert "label noise" in named(found)
    assert "label noise" not in named(found, Facts(classes=10, val_n=400, distorted=True))


def test_a_fitted_head_begins_below_guessing() -> None:
    """From 0.4 up to 1.2 is far below ln 10, and still a rise."""
    facts = Facts(classes=10, val_n=400, lr=0.1, fitted_head=True)
    found = rows(lambda t: 1.2, lambda t: 0.6, first=0.4)
    assert named(found, facts)[0] == "lr too high"


def test_a_loss_that_went_up_and_came_back_is_not_slow() -> None:
    """A fitted head that warm-up unsettles ends where it began; the rate that did this is not too low."""
    facts = Facts(classes=2, val_n=400, lr=0.1, fitted_head=True)
    found = rows(lambda t: 0.47 + 0.6 * math.sin(math.pi * t), lambda t: 0.8, first=0.46)
    assert "lr too low" not in named(found, facts)
    still = rows(lambda t: 0.47 + 0.02 * math.sin(math.pi * t), lambda t: 0.8, first=0.46)
    assert "lr too low" in named(still, facts)


def test_label_smoothing_has_a_floor_that_is_not_underfitting_of_the_loss() -> None:
    facts = Facts(classes=10, val_n=400, label_smoothing=0.1, schedule="constant")
    assert named(rows(falls(facts.floor + 0.03), rises(0.98), lr=0.1), facts) == ["healthy"]


def test_while_training_runs_only_what_is_sure_is_said() -> None:
    running = Facts(**{**FACTS.to_dict(), "finished": False})
    begun = PLANTED["underfitting"][:60]
    assert diagnose(begun, running)[0].sentence == "Nothing to say so far (5 of 20 epochs)."
    assert diagnose([], running) == []


@pytest.mark.parametrize("fault", ["wrong direction", "lr too high", "overfitting", "healthy"])
def test_the_live_coach_speaks_once_and_only_of_broken_trainings(fault: str) -> None:
    live = Live(FACTS)
    said = [finding.name for row in PLANTED[fault] if (finding := live.read(row)) is not None]
    assert said == ([fault] if fault in ("wrong direction", "lr too high") else [])


def test_phases_are_judged_apart_and_each_finding_told_once() -> None:
    second = [{**row, "phase_index": 1, "phase": "q"} for row in PLANTED["healthy"]]
    found = diagnose_phases([*PLANTED["underfitting"], *second], {0: FACTS, 1: FACTS})
    assert [(f.name, f.phase) for f in found] == [("underfitting", "p")]
    both = diagnose_phases([*PLANTED["healthy"], *second], {0: FACTS, 1: FACTS})
    assert [(f.name, f.phase) for f in both] == [("healthy", "p")]


def test_without_facts_only_the_curves_speak() -> None:
    assert named(PLANTED["wrong direction"], Facts()) == ["wrong direction"]
    assert named(PLANTED["healthy"], Facts()) == ["healthy"]
    assert set(NAMES) == {*PLANTED, "diverged", "validation too small"}


def test_curves_without_accuracies_are_read_by_their_loss() -> None:
    bare = [{k: v for k, v in row.items() if "accuracy" not in k} for row in PLANTED["healthy"]]
    assert named(bare) == ["healthy"]
    assert Curve(bare, FACTS).accuracy is None


def test_the_slope_ignores_wild_rows() -> None:
    assert theil_sen([2.0 * i + (500 if i == 7 else 0) for i in range(30)]) == pytest.approx(2.0)
    assert theil_sen([3.0 * i for i in range(1000)]) == pytest.approx(3.0)


def test_the_binomial_error_is_never_zero() -> None:
    assert binomial_error(1.0, 50) > 0.01
    assert binomial_error(0.5, 10_000) == pytest.approx(0.005, rel=1e-3)


def test_facts_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("image,label,split\na,x,train\nb,y,train\nc,x,val\n")
    counted = counted_facts(tmp_path)
    assert (counted.classes, counted.train_n, counted.val_n) == (2, 2, 1)
    assert phase_facts(tmp_path) == {}
    tree = {"phases": {"0": {"kind": "probe"}, "1": {"coach": {"classes": 3, "new key": 1}}}}
    (tmp_path / "training.json").write_text(json.dumps(tree))
    assert phase_facts(tmp_path) == {1: Facts(classes=3, finished=False)}
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(RunError, match=r"training\.json cannot be read"):
        phase_facts(tmp_path)


def with_updates(found: list[dict[str, Any]], update: float) -> list[dict[str, Any]]:
    return [{**row, "update": update} if row["kind"] == "step" else row for row in found]


def test_small_steps_part_a_low_rate_from_a_small_network() -> None:
    """The same losses: what the steps did to the weights tells why they hardly fell."""
    slow = rows(lambda t: 2.3 - 0.5 * t, lambda t: 0.1 + 0.1 * t)
    assert named(slow) == ["lr too low"]
    assert named(with_updates(slow, 5e-5)) == ["lr too low"]
    assert named(with_updates(slow, 5e-3)) == ["underfitting"]


def test_steps_that_hardly_move_the_weights_are_told_however_the_loss_fell() -> None:
    early = rows(lambda t: 2.3 - 0.5 * min(1.0, 20 * t), lambda t: 0.25)
    assert "lr too low" not in named(early)
    finding = diagnose(with_updates(early, 1e-4), FACTS)[0]
    assert (finding.name, finding.evidence["update"]) == ("lr too low", 1e-4)
    assert "0.01%" in finding.sentence


def contradicting(share: float) -> list[dict[str, Any]]:
    """Few images: a gap between the accuracies, and labels that the network once contradicted."""
    found = rows(falls(0.05, 3), rises(0.99, 4), lambda t: 1.2 + (t - 0.3) ** 2, rises(0.6, 8))
    return [{**row, "contradicted": share} if row["kind"] == "epoch" else row for row in found]


def test_contradicted_labels_part_wrong_labels_from_few_images() -> None:
    assert "overfitting" in named(contradicting(0.0))
    assert "label noise" not in named(contradicting(0.0))
    assert "label noise" in named(contradicting(0.12))
    # Where augmentation makes images hard, being sure of another class may be the augmentation's doing.
    assert "label noise" not in named(contradicting(0.12), Facts(**{**FACTS.to_dict(), "distorted": True}))


def test_a_rate_that_undid_what_was_learned_is_no_wrong_label() -> None:
    """Training accuracy went from 95% to 68% and back: at the bottom the network is sure of many wrong classes, and
    the validation loss happened to be least there."""

    def accuracy(t: float) -> float:
        return 0.68 if 0.1 < t <= 0.2 else 0.95 + 0.05 * t

    def tumbled(share: float) -> list[dict[str, Any]]:
        found = rows(falls(0.05), accuracy, lambda t: 0.8 + abs(t - 0.15), lambda t: 0.7)
        return [{**row, "contradicted": share} if row["kind"] == "epoch" else row for row in found]

    assert "label noise" not in named(tumbled(0.32))
    level = [{**row, "accuracy": max(row["accuracy"], 0.9)} for row in tumbled(0.32)]
    assert "label noise" in named(level)  # the same without the fall


def before_training(found: list[dict[str, Any]], **scores: float) -> list[dict[str, Any]]:
    place = {key: found[0][key] for key in ("phase", "phase_index", "epochs", "steps")}
    return [{**place, "kind": "epoch", "epoch": 0, "step": 0, "lr": 0.1, **scores}, *found]


def test_each_best_epoch_is_named_by_what_it_is_best_in() -> None:
    found = before_training(contradicting(0.12), val_loss=0.9, val_accuracy=0.8)
    said = {f.name: f for f in diagnose(found, Facts(**{**FACTS.to_dict(), "val_n": 20}))}
    noise, small = said["label noise"], said["validation too small"]
    least = noise.evidence["least_epoch"]
    assert f"validation loss was least since training began (epoch {least})" in noise.sentence
    assert f"stop at epoch {least} and smooth" in noise.remedy
    assert "the highest validation accuracy (80%, before training)" in small.sentence
    assert "epoch 0" not in noise.text + small.text


def test_few_contradicted_labels_count_only_where_the_validation_loss_was_least() -> None:
    """A fitted head is there before training: where its loss was the least, the first epoch has done harm already."""
    some = contradicting(0.09)
    assert "label noise" in named(before_training(some, val_loss=9.0, val_accuracy=0.5))
    assert "label noise" not in named(before_training(some, val_loss=0.9, val_accuracy=0.5))


TINY = Facts(classes=10, train_n=800, val_n=20, lr=0.1, schedule="cosine")


def test_what_the_plan_does_already_is_no_advice() -> None:
    found = rows(falls(), rises(), val_accuracy=lambda t: 0.9)
    assert "or keep the last epoch (train.keep=last)" in diagnose(found, TINY)[0].remedy
    kept = diagnose(found, Facts(**{**TINY.to_dict(), "keep": "last"}))[0]
    assert kept.remedy == "Hold out more images; the last epoch is kept, as is best then."


def test_a_single_epoch_is_not_held_against_others() -> None:
    one = before_training(rows(falls(), rises())[: PER + 2], val_loss=0.3, val_accuracy=0.9)
    assert "validation too small" not in named(one, TINY)


def test_validation_without_an_error_is_not_said_to_differ() -> None:
    finding = diagnose(rows(falls(), rises(), val_accuracy=lambda t: 1.0), TINY)[0]
    assert finding.sentence.startswith("All 20 validation images are called right in the later epochs")
    assert "differ" not in finding.sentence


def test_a_rise_is_held_against_the_beginning() -> None:
    facts = Facts(classes=10, val_n=400, lr=0.1, fitted_head=True)
    finding = diagnose(rows(lambda t: 0.0602 + 0.2 * (t < 0.2), lambda t: 0.97, first=0.0268), facts)[0]
    assert finding.name == "lr too high"
    assert "ended no lower than it began (0.06" in finding.sentence


def few_epochs(*losses: float, accuracy: float = 0.6) -> list[dict[str, Any]]:
    """Epochs of three steps whose rows are too few for anything but the epochs' means."""
    place = {"phase": "p", "phase_index": 0, "epochs": len(losses), "steps": 3 * len(losses), "lr": 0.1}
    first = {**place, "kind": "first", "epoch": 1, "step": 1, "loss": math.log(2), "accuracy": 0.5}
    return [
        first,
        *(
            {**place, "kind": "epoch", "epoch": epoch, "step": 3 * epoch, "loss": loss, "accuracy": accuracy}
            for epoch, loss in enumerate(losses, 1)
        ),
    ]


def test_the_end_of_few_epochs_is_their_last() -> None:
    """The median of three epochs would be their middle, level with the start: no fall, and a rate "too low"."""
    facts = Facts(classes=2, train_n=200, val_n=40, lr=0.12, batch=64)
    curve = Curve(few_epochs(0.766, 0.706, 0.551), facts)
    assert curve.end == 0.551
    assert not {"lr too low", "lr too high"} & set(named(few_epochs(0.766, 0.706, 0.551), facts))
    assert "lr too low" in named(few_epochs(0.694, 0.693, 0.693), facts)
    assert "lr too high" in named(few_epochs(9.0, 7.0, 5.0, accuracy=0.5), facts)


@pytest.mark.parametrize(("count", "end"), [(1, 0), (2, 1), (5, 4), (6, 4.5), (8, 6.5), (9, 7), (20, 18)])
def test_the_end_is_a_median_of_at_most_a_third(count: int, end: float) -> None:
    assert Curve(few_epochs(*map(float, range(count))), FACTS).end == end


@pytest.mark.parametrize(
    ("loss", "name"),
    [(7.5e20, "lr too high"), (9.0, "lr too high"), (3.0, "healthy")],
)
def test_a_single_epoch_after_a_solved_head(loss: float, name: str) -> None:
    place = {"phase": "p", "phase_index": 0, "epochs": 1, "steps": 1, "epoch": 1, "step": 1, "lr": 100.0}
    found = [
        {**place, "kind": "first", "loss": 0.0859, "accuracy": 1.0},
        {**place, "kind": "epoch", "loss": loss, "accuracy": 0.5, "val_loss": loss, "val_accuracy": 0.5},
    ]
    facts = dataclasses.replace(FACTS, fitted_head=True, finished=True, lr=100.0)
    (finding,) = [f for f in diagnose(found, facts) if f.name in ("lr too high", "healthy")]
    assert finding.name == name
    assert "fell from" not in finding.text
