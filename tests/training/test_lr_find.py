"""The LR range test: what it suggests on planted curves, and that it leaves no trace."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.errors import ConfigError, Interrupted
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.strategy.plan import ProbePhase
from finetune.training import tuning as module
from finetune.training.execute import execute
from finetune.training.lr_find import (
    HIGHEST,
    LOWEST,
    Found,
    find_lr,
    judged,
    longest_valley,
    smoothed,
    suggest,
)

LRS = [LOWEST * (HIGHEST / LOWEST) ** (i / 99) for i in range(100)]


def curve(falls: float | None, rises: float | None, noise: float = 0.02, depth: float = 1.0) -> list[float]:
    """2 nats; a smooth fall by ``depth`` around one rate, a parabola upwards from another, on a log axis."""
    x = np.log10(LRS)
    y = np.full(100, 2.0) + np.random.default_rng(0).normal(0, noise, 100)
    if falls is not None:
        y -= depth / (1 + np.exp(-3 * (x - np.log10(falls))))
    if rises is not None:
        y += 4 * np.clip(x - np.log10(rises), 0, None) ** 2
    return list(y)


# --- the suggestion ------------------------------------------------------------------------------------


def test_middle_of_the_descent() -> None:
    found = suggest(LRS, curve(falls=1e-3, rises=0.3))
    assert found.index is not None
    assert 2e-4 < LRS[found.index] < 1e-2
    assert f"Lr {LRS[found.index]:.2g} is the middle of the longest descent to there." in found.reason
    assert "fastest near lr 0.00" in found.reason
    assert found.rises is not None
    assert 0.2 < LRS[found.rises] < 3


def test_at_most_a_tenth_of_the_rate_of_the_least_loss() -> None:
    """A fall that ends in a cliff at once: its middle would be too near to the cliff."""
    values = curve(falls=None, rises=None)
    for i in range(60, 66):
        values[i] = 2 - 0.3 * (i - 59)
    values = values[:66] + [5.0] * 34
    found = suggest(LRS, values)
    assert found.index is not None
    assert LRS[found.index] <= LRS[int(smoothed(values).argmin())] / 10 * (1 + 1e-9)
    assert f"Lr {LRS[found.index]:.2g} is a tenth of the latter" in found.reason


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_flat(noise: float) -> None:
    found = suggest(LRS, curve(None, None, noise))
    assert found.index is None
    assert found.rises is None
    assert found.reason.startswith("The curve is flat at a loss of ")


@pytest.mark.parametrize("rises", [1e-4, 1e-2])
def test_rises_from_the_start(rises: float) -> None:
    found = suggest(LRS, curve(None, rises))
    assert found.index is None
    assert found.reason.startswith("The loss rises without falling below its start of 2")
    assert found.rises is not None
    assert rises / 3 < LRS[found.rises] < 10 * rises


def test_loss_that_is_no_number_at_once() -> None:
    assert "no number after 3 steps" in suggest(LRS[:3], [1.0, 1.0, 1.0]).reason


def test_never_where_the_loss_was_already_rising() -> None:
    draw = np.random.default_rng(1)
    for _ in range(200):
        falls = 10 ** draw.uniform(-5, 0)
        values = np.array(
            curve(falls, falls * 10 ** draw.uniform(0, 2), draw.uniform(0, 0.3), draw.uniform(0.1, 1.8))
        )
        values += draw.normal(0, 0.05, 100)
        found, smooth = suggest(LRS, values.tolist()), smoothed(values.tolist())
        if found.index is not None:
            assert found.index <= int(smooth.argmin())
            assert found.rises is None or found.index < found.rises
            assert smooth[found.index] <= smooth[:25].mean() + 0.3


def test_smoothing_is_without_bias_and_without_lag() -> None:
    rising = np.arange(50.0)
    middle = smoothed(list(rising))[15:35]
    np.testing.assert_allclose(middle, rising[15:35], atol=0.01)
    assert smoothed([3.0]).tolist() == [3.0]


def test_the_curve_that_is_shown_is_the_one_that_is_decided_on() -> None:
    """One wild loss at the end must not lift nine steps before it, nor stretch the axis."""
    values = curve(falls=1e-3, rises=None, noise=0.0, depth=1.9)
    values[-1] = 168.8
    found, shown = suggest(LRS, values), judged(LRS, values)
    least = int(shown.argmin())
    assert f"to {shown[least]:.3g}: " in found.reason
    assert f"least at {LRS[least]:.2g}." in found.reason
    assert shown.max() < 4
    assert judged([], []).size == 0


def test_valley_of_a_monotone_curve_is_its_middle() -> None:
    assert longest_valley(list(range(90, 0, -1))) == 43


@pytest.mark.parametrize(("wrong", "message"), [
    ("quick", "must be a number greater than 0, or auto"), (True, "must be a number greater than 0, or auto"),
    (0, "must be greater than 0"), (1e9, "must be less than or equal to 1000"),
])  # fmt: skip
def test_rates_that_a_recipe_cannot_have(wrong: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"recipe: train\.lr: {message}\. Got"):
        Recipe.from_mapping({"train": {"lr": wrong}})
    assert Recipe.from_mapping({"train": {"lr": "auto"}}).train.lr == "auto"


def test_what_is_used_where_nothing_is_suggested() -> None:
    found = Found(None, None, "flat", (0.02, 0.2), None, ())
    assert found.usable() == (0.02, 0.2)
    low = Found(None, None, "rises", (0.02, 0.2), 0.05, ())
    assert low.usable() == pytest.approx((0.005, 0.05))
    assert low.story() == "LR range test: rises"


# --- the test itself -----------------------------------------------------------------------------------


def states() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), kind, keys.tobytes(), tuple(rest), torch.get_rng_state().numpy().tobytes()


def test_leaves_no_trace(tiny: Any, tmp_path: Path) -> None:
    seen: list[Found] = []

    def look(job: Any, images: Any) -> None:
        weights = copy.deepcopy(job.backbone.state_dict())
        modes = [m.training for m in job.backbone.modules()]
        optimizer, before = copy.deepcopy(job.optimizer.state_dict()), states()
        seen.append(find_lr(job, 50))
        assert states() == before
        assert job.optimizer.state_dict() == optimizer
        assert [m.training for m in job.backbone.modules()] == modes
        assert all(torch.equal(v, weights[n]) for n, v in job.backbone.state_dict().items())
        assert all(p.grad is None for p in job.backbone.parameters())
        assert find_lr(job, 50) == seen[0]  # the same batches, the same draws

    execute(tiny.plan(), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path, rehearse=look)
    rows = seen[0].curve
    assert rows[0]["head_lr"] == pytest.approx(LOWEST)  # the group that learns fastest
    assert all(row["head_lr"] / row["lr"] == pytest.approx(2.5) for row in rows)
    assert len(rows) > 40  # five batches an epoch: they come again
    assert seen[0].lr is not None
    assert 1e-5 < seen[0].lr < 0.1
    assert json.loads(json.dumps(seen[0].to_dict()))["curve"][0]["lr"] == rows[0]["lr"]


def test_training_after_a_range_test_equals_training_without(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = execute(tiny.plan(), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path / "a").state_dict()
    fit = module.fit
    monkeypatch.setattr(module, "fit", lambda job: (find_lr(job, 12), fit(job)))
    tested = execute(tiny.plan(), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path / "b").state_dict()
    assert [n for n in plain if not torch.equal(plain[n], tested[n])] == []


def test_stops_where_the_loss_passes_four_times_its_best(tiny: Any, tmp_path: Path) -> None:
    seen: list[Found] = []
    phase = tiny.phase(
        train_from=0, optimizer="adamw", lr=1e-3, head_lr=1e-2, batch_norm="frozen", clip_grad=None
    )
    probe = ProbePhase(candidates=((4,),), folds=2)
    execute(tiny.plan(probe, phase), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path,
            rehearse=lambda job, _: seen.append(find_lr(job)))  # fmt: skip
    rows = seen[0].curve
    assert len(rows) < 100
    assert max(row["loss"] for row in rows) > 2 * min(row["smoothed"] for row in rows)
    assert seen[0].rises_at is not None
    told = judged([row["lr"] for row in rows], [row["loss"] for row in rows])
    assert [row["smoothed"] for row in rows] == told.tolist()


class StopAt(Listener):
    def on_step(self, row: dict[str, Any]) -> None:
        if row["step"] == 2:
            raise Interrupted("Stopped.")


def test_auto_is_found_once_and_kept(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the executor, for a phase that asks; the refit and a resumed run take the same value."""
    from finetune.training import opening

    told: list[str] = []

    class Words(StopAt):
        def on_message(self, text: str) -> None:
            told.append(text)

    first = tiny.phase(find_lr=True)
    plan = tiny.plan(first, first.model_copy(update={"name": "again", "fit_on": "train+val"}))
    settings = tiny.recipe(log_every=1)
    monkeypatch.setattr(opening, "find_lr", lambda job: find_lr(job, 40))
    with pytest.raises(Interrupted):
        execute(plan, tiny.backbone(), tiny.bundle(), settings, tmp_path, Words())
    assert sum(text.startswith("LR range test: lr ") for text in told) == 1

    def again(job: Any) -> None:
        raise AssertionError("a resumed run must not test again")

    monkeypatch.setattr(opening, "find_lr", again)
    execute(plan, tiny.backbone(), tiny.bundle(), settings, tmp_path, resume=True)
    facts = json.loads((tmp_path / "training.json").read_text())
    (used,) = [v["used"] for k, v in facts.items() if k.startswith("learning rates of ")]
    for index in ("0", "1"):
        assert facts["phases"][index]["groups"][-1]["lr"] == used["head_lr"]
    assert used["head_lr"] == pytest.approx(2.5 * used["lr"])
