"""The safety net: interpolation, the choice of the point, and what a run makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.errors import Interrupted, RunError
from finetune.strategy.plan import ProbePhase
from finetune.training.blend import interpolate, likely_alpha
from finetune.training.execute import execute
from finetune.training.objectives import Classes, Labels, Numbers
from finetune.training.probing import Probing

PROBE = ProbePhase(candidates=((4,),), folds=2)
ALPHAS = (0.0, 0.5, 1.0)


def run(
    tiny: Any, folder: Path, *phases: Any, resume: bool = False, seed: int = 5
) -> tuple[Any, dict[str, Any]]:
    plan = tiny.plan(*phases)
    backbone = execute(plan, tiny.backbone(seed=seed), tiny.bundle(), tiny.recipe(), folder, resume=resume)
    return backbone, json.loads((folder / "training.json").read_text())["phases"]


def test_interpolate_is_a_straight_line_and_counters_jump() -> None:
    start = {"w": torch.tensor([0.0, 2.0]), "n": torch.tensor(3)}
    end = {"w": torch.tensor([4.0, 0.0]), "n": torch.tensor(9)}
    quarter = interpolate(start, end, 0.25)
    assert quarter["w"].tolist() == [1.0, 1.5]
    assert int(quarter["n"]) == 3
    assert int(interpolate(start, end, 0.5)["n"]) == 9
    assert torch.equal(interpolate(start, end, 1.0)["w"], end["w"])


def test_points_are_averaged_by_their_likelihood() -> None:
    surprises = [10.0, 10.5, 11.0]
    weights = np.exp(-np.array(surprises))
    wanted = float((weights * ALPHAS).sum() / weights.sum())
    assert likely_alpha(ALPHAS, surprises) == pytest.approx(wanted, abs=5e-4)
    assert likely_alpha(ALPHAS, [7.0, 7.0, 7.0]) == 0.5


@pytest.mark.parametrize(
    ("surprises", "alpha"), [([10, 300, 900], 0.0), ([900, 10, 300], 0.5), ([99, 50, 3], 1.0)]
)
def test_many_images_choose_one_point(surprises: list[float], alpha: float) -> None:
    assert likely_alpha(ALPHAS, surprises) == alpha


def test_what_is_unlikely_by_twenty_counts_for_nothing() -> None:
    assert likely_alpha(ALPHAS, [5.0, 5.0 + np.log(20.1), 9.0]) == 0.0
    assert likely_alpha(ALPHAS, [5.0, 5.0 + np.log(19.9), 9.0]) == pytest.approx(0.024, abs=1e-3)


def test_points_without_a_figure_count_for_nothing() -> None:
    nan, inf = float("nan"), float("inf")
    assert likely_alpha(ALPHAS, [3.0, 3.0, nan]) == 0.25
    assert likely_alpha(ALPHAS, [3.0, inf, 3.0]) == 0.5
    assert likely_alpha(ALPHAS, [nan, nan, inf]) == 0.0


def test_surprise_is_the_negative_log_likelihood() -> None:
    logits, labels = torch.randn(7, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    mean = float(torch.nn.functional.cross_entropy(logits, labels))
    said = -float(torch.distributions.Categorical(logits=logits).log_prob(labels).sum())
    assert Classes(3).surprise(mean, 7) == pytest.approx(said)
    yes = (torch.rand(7, 3) > 0.5).double()
    one = torch.nn.functional.binary_cross_entropy_with_logits(logits, yes, reduction="none")
    each = float(one.sum(1).mean())
    said = -float(torch.distributions.Bernoulli(logits=logits).log_prob(yes).sum())
    assert Labels(3).surprise(each, 7) == pytest.approx(said)
    # Of numbers the spread is estimated too: differences are those of a normal distribution as wide as the errors.
    numbers = Numbers.__new__(Numbers)
    for narrow, wide in ((0.5, 2.0), (0.1, 0.3)):
        errors = [torch.randn(2000, dtype=torch.float64) for _ in range(2)]
        errors = [e / e.square().mean().sqrt() * s for e, s in zip(errors, (narrow, wide), strict=True)]
        real = [
            -float(torch.distributions.Normal(0.0, s).log_prob(e).sum())
            for e, s in zip(errors, (narrow, wide), strict=True)
        ]
        said = [numbers.surprise(float(e.square().mean()), 2000) for e in errors]
        assert said[1] - said[0] == pytest.approx(real[1] - real[0])


def test_training_that_did_harm_is_undone(tiny: Any, tmp_path: Path) -> None:
    """At this learning rate the tuned network is ruined; what is left is the head that was solved first."""
    ruin = tiny.phase(train_from=0, lr=3.0, head_lr=3.0, ema=None, keep="last", epochs=1,
                      batch_norm="frozen")  # fmt: skip
    alone, _ = run(tiny, tmp_path / "alone", PROBE)
    blended, facts = run(tiny, tmp_path / "blended", PROBE, ruin.model_copy(update={"blend": ALPHAS}))
    points = {p["alpha"]: p for p in facts["1"]["blend"]["points"]}
    assert points[0.0]["log_loss"] < points[1.0]["log_loss"]
    assert facts["1"]["blend"]["alpha"] == 0.0
    for name, value in alone.state_dict().items():
        assert torch.equal(value, blended.state_dict()[name]), name


def test_the_figures_are_those_of_the_weights_between(tiny: Any, tmp_path: Path) -> None:
    tune = tiny.phase(keep="last", blend=(0.5,))
    plain, _ = run(tiny, tmp_path / "plain", PROBE, tune.model_copy(update={"blend": ()}))
    start, _ = run(tiny, tmp_path / "start", PROBE)
    half, facts = run(tiny, tmp_path / "half", PROBE, tune)
    assert facts["1"]["blend"] == {"alpha": 0.5, "points": []}
    for name, value in half.state_dict().items():
        if value.is_floating_point():
            middle = (start.state_dict()[name] + plain.state_dict()[name]) / 2
            torch.testing.assert_close(value, middle, rtol=1e-5, atol=1e-6)


def test_measured_points_agree_with_a_fresh_evaluation(tiny: Any, tmp_path: Path) -> None:
    tune = tiny.phase(keep="last", blend=ALPHAS)
    backbone, facts = run(tiny, tmp_path / "run", PROBE, tune)
    chosen = facts["1"]["blend"]
    assert [p["alpha"] for p in chosen["points"]] == [0.0, 0.5, 1.0]
    row = chosen["points"][2]
    backbone, _ = run(tiny, tmp_path / "end", PROBE, tune.model_copy(update={"blend": ()}))
    val = tiny.bundle().val
    pixels = np.stack(
        [np.asarray(val.load(i).resize((backbone.preprocessing.size,) * 2)) for i in range(len(val))]
    )
    x = backbone.preprocessing.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    with torch.no_grad():
        accuracy = float((backbone(x).argmax(1).numpy() == val.labels).mean())
    assert row["accuracy"] == pytest.approx(accuracy, abs=1 / len(val) + 1e-9)


def test_refit_begins_at_the_pretrained_weights_and_takes_the_earlier_point(
    tiny: Any, tmp_path: Path
) -> None:
    tune = tiny.phase(keep="last", blend=ALPHAS)
    both = {"fit_on": "train+val"}
    refit = (PROBE.model_copy(update={**both, "restart": True}),
             tune.model_copy(update={**both, "blend": "earlier"}))  # fmt: skip
    backbone, facts = run(tiny, tmp_path / "refit", PROBE, tune, *refit)
    assert facts["3"]["blend"] == {"alpha": facts["1"]["blend"]["alpha"], "points": []}
    # The frozen stages are the pretrained ones, and the trained ones did not begin where phase 1 ended.
    fresh = tiny.backbone(seed=5)
    for name, value in fresh.stage_parameters(0):
        assert torch.equal(value, dict(backbone.named_parameters())[name])
    assert facts["2"]["candidates"] != facts["0"]["candidates"]  # 45 images, not 33


def test_a_refit_keeps_the_stages_that_were_chosen(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several sets of stages compete for the first head; the second has the winner's. The network that trains
    between reads them too."""
    seen = []
    solve = Probing._solve

    def noted(self: Probing, phase: ProbePhase) -> Any:
        seen.append((phase.candidates, phase.combine))
        return solve(self, phase)

    monkeypatch.setattr(Probing, "_solve", noted)
    several = PROBE.model_copy(update={"candidates": ((2,), (1, 2)), "combine": "average"})
    tune = tiny.phase(keep="last", blend=ALPHAS, epochs=1)
    both = {"fit_on": "train+val"}
    refit = (several.model_copy(update={**both, "restart": True}),
             tune.model_copy(update={**both, "blend": "earlier"}))  # fmt: skip
    backbone, facts = run(tiny, tmp_path / "refit", several, tune, *refit)
    taps = tuple(facts["0"]["taps"])
    assert seen == [(((2,), (1, 2)), "average"), ((taps,), "pick")]
    assert tuple(facts["2"]["taps"]) == taps == tuple(backbone.head_taps)


def test_a_refit_of_the_head_alone_trains_nothing(tiny: Any, tmp_path: Path) -> None:
    ruin = tiny.phase(train_from=0, lr=3.0, head_lr=3.0, ema=None, keep="last", epochs=1, batch_norm="frozen",
                      blend=(0.0, 1.0))  # fmt: skip
    both = {"fit_on": "train+val"}
    head_again = PROBE.model_copy(update={**both, "restart": True})
    refit = ruin.model_copy(update={**both, "blend": "earlier"})
    twice, facts = run(tiny, tmp_path / "twice", PROBE, ruin, head_again, refit)
    alone, _ = run(tiny, tmp_path / "alone", PROBE.model_copy(update=both))
    assert facts["3"]["best"] == {"epoch": 0}
    for name, value in alone.state_dict().items():
        assert torch.equal(value, twice.state_dict()[name]), name


@pytest.mark.parametrize("at", [3, 11])
def test_a_resumed_phase_blends_with_the_same_start(tiny: Any, tmp_path: Path, at: int) -> None:
    tune = tiny.phase(keep="last", blend=ALPHAS, epochs=3)
    plan = tiny.plan(PROBE, tune)
    whole = execute(plan, tiny.backbone(), tiny.bundle(), tiny.recipe(save_every=2), tmp_path / "whole")
    from finetune.training.job import Job

    step, take = 0, Job.after_step

    def stop(self: Job, *finished: Any) -> None:
        nonlocal step
        step += 1
        if step == at:
            self.desk.stop.requested = True
        take(self, *finished)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "after_step", stop)
        with pytest.raises(Interrupted):
            execute(plan, tiny.backbone(), tiny.bundle(), tiny.recipe(save_every=2), tmp_path / "parts")
    resumed = execute(
        plan, tiny.backbone(), tiny.bundle(), tiny.recipe(save_every=2), tmp_path / "parts", resume=True
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert not list((tmp_path / "parts" / "checkpoints").glob("start-*"))


def test_lost_start_weights_are_one_message(tiny: Any, tmp_path: Path) -> None:
    tune = tiny.phase(keep="last", blend=ALPHAS, epochs=3)
    from finetune.training.job import Job

    take = Job.after_step

    def stop(self: Job, *finished: Any) -> None:
        self.desk.stop.requested = True
        take(self, *finished)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "after_step", stop)
        with pytest.raises(Interrupted):
            run(tiny, tmp_path, PROBE, tune)
    (tmp_path / "checkpoints" / "start-1.pt").unlink()
    with pytest.raises(RunError, match=r"start-1.pt is missing, so the run cannot go on. Start a new one"):
        run(tiny, tmp_path, PROBE, tune, resume=True)


def test_norms_and_biases_alone_move(tiny: Any, tmp_path: Path) -> None:
    tune = tiny.phase(train_from=0, trains="norms-biases", keep="last", lr=0.1, batch_norm="frozen")
    backbone, facts = run(tiny, tmp_path, PROBE, tune)
    before = dict(tiny.backbone(seed=5).named_parameters())
    moved = {n for n, p in backbone.named_parameters() if n in before and not torch.equal(p, before[n])}
    body = {n for n in before if n.startswith("model.")}
    assert moved & body == {n for n in body if before[n].ndim <= 1}
    vectors = sum(before[n].numel() for n in body if before[n].ndim <= 1)
    assert facts["1"]["trained_parameters"] == vectors + sum(p.numel() for _, p in backbone.head_parameters())
