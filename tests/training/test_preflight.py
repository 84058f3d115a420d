"""Preflight: silent on healthy phases, loud on planted faults, and without a trace."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.imageset import DataBundle, ImageSet
from finetune.data.preprocessing import Preprocessing
from finetune.errors import TrainingError
from finetune.events import Listener
from finetune.solvers import OPTIMIZERS
from finetune.strategy.plan import ProbePhase
from finetune.training import preflight as module
from finetune.training.checks import Check
from finetune.training.checks.regularisation import regularisation
from finetune.training.execute import execute
from finetune.training.feed import Feed
from finetune.training.metrics_log import read_metrics
from finetune.training.preflight import CHECKS, Report, preflight
from finetune.training.trial import on_a_copy
from finetune.zoo.backbone import Backbone

PROBE = ProbePhase(candidates=((4,),), folds=2)


def examine(
    tiny: Any, folder: Path, *phases: Any, network: Any = None, data: Any = None, seconds: float = math.inf,
    change: Any = None, only: str | None = None,
) -> dict[str, Check]:  # fmt: skip
    """The checks of the last phase by name; ``change`` plants a fault in its job; ``only`` one file of checks."""
    reports: list[Report] = []

    def look(job: Any, images: Any) -> None:
        if change is not None:
            change(job)
        chosen = tuple(check for check in CHECKS if only in (None, check.__name__))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "CHECKS", chosen)
            reports.append(preflight(job, images, seconds))

    execute(tiny.plan(*phases), network or tiny.backbone(), data or tiny.bundle(), tiny.recipe(), folder,
            rehearse=look)  # fmt: skip
    return {check.name: check for check in reports[-1].checks}


def failed(checks: dict[str, Check]) -> dict[str, Check]:
    return {name: check for name, check in checks.items() if check.status == "failure"}


# --- healthy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "first"), [("test_resnet", 0), ("test_resnet", 5), ("test_vit", 3)])
def test_fresh_head(tiny: Any, tmp_path: Path, arch: str, first: int) -> None:
    checks = examine(tiny, tmp_path, tiny.phase(train_from=first), network=tiny.backbone(arch))
    assert len(checks) == len(CHECKS)
    judged = {name: check.status for name, check in checks.items() if name != "loader"}
    assert set(judged.values()) == {"ok"}, checks
    assert "ln 3 = 1.10 (fresh head" in checks["first loss"].found


@pytest.mark.parametrize("augment", ["none", "light"])
def test_solved_head(tiny: Any, tmp_path: Path, augment: str) -> None:
    phase = tiny.phase(train_from=0, batch_norm="frozen", augment=augment)
    checks = examine(tiny, tmp_path, PROBE, phase)
    assert not failed(checks), checks
    assert checks["first loss"].found.endswith("(solved head: below)")


@pytest.mark.parametrize("head", ["linear", "bottleneck"])
def test_a_solved_head_has_to_learn_the_images_anew(tiny: Any, tmp_path: Path, head: str) -> None:
    """It has them right before the first step, which would say nothing about the training."""
    phase = tiny.phase(train_from=0, batch_norm="frozen", head=head)
    network = tiny.backbone()
    solved: dict[str, torch.Tensor] = {}

    def look(job: Any) -> None:
        solved.update(copy.deepcopy(job.backbone.head.state_dict()))

    check = examine(tiny, tmp_path, PROBE, phase, network=network, only="overfit", change=look)["overfitting"]
    assert check.status == "ok"
    assert 0 < int(check.found.split()[-2]) <= 100
    assert all(torch.equal(value, solved[name]) for name, value in network.head.state_dict().items())


def test_a_solved_head_does_not_hide_that_nothing_learns(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.training.checks import overfit

    monkeypatch.setattr(overfit, "STEPS", 10)
    monkeypatch.setattr(overfit, "_HEAD_LR", 1e-12)
    phase = tiny.phase(train_from=0, batch_norm="frozen")
    check = examine(tiny, tmp_path, PROBE, phase, only="overfit")["overfitting"]
    assert (check.status, "after 10 steps" in check.found) == ("warning", True), check


@pytest.mark.parametrize("changes", [
    {"trains": "norms-biases", "train_from": 0}, {"batch_size": 1}, {"optimizer": "adamw", "lr": 1e-3, "head_lr": 1e-2},
    {"accumulate": 3, "lr": 1e-12, "head_lr": 1e-12, "weight_decay": 0.0, "clip_grad": None},
])  # fmt: skip
def test_unusual_but_healthy(tiny: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    assert not failed(examine(tiny, tmp_path, tiny.phase(**changes)))


def test_adapters(tiny: Any, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    phase = tiny.phase(trains="lora", train_from=1, lr=1e-3, head_lr=1e-3, optimizer="adamw")
    checks = examine(tiny, tmp_path, phase, network=tiny.backbone("test_vit"))
    assert not failed(checks), checks
    assert checks["frozen parts"].status == "ok"


def test_scales_of_zero_hold_gradients_back_for_a_step_only(tiny: Any, tmp_path: Path) -> None:
    """As in residual networks from random weights: the last norm of a branch begins at 0."""
    network = tiny.backbone()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bn2.weight" in name:
                parameter.zero_()
    assert not failed(examine(tiny, tmp_path, tiny.phase(train_from=0), network=network, only="gradients"))


class Alike(ImageSet):
    """Grey images; ``same``: one and the same, else noise of their own."""

    def __init__(self, labels: list[int], classes: int = 3, same: bool = True, dark: bool = False) -> None:
        self.classes = tuple("abcdefgh"[:classes])
        self.labels = np.array(labels, dtype=np.int64)
        self.same, self.dark = same, dark

    def load(self, index: int) -> Image.Image:
        random = np.random.default_rng(0 if self.same else index)
        return Image.fromarray(random.integers(0, 2 if self.dark else 256, (32, 32, 3), dtype=np.uint8))

    def name(self, index: int) -> str:
        return f"{index:02d}.png"

    def fingerprint(self, index: int) -> bytes:
        return str(index if not self.same else 0).encode()


class Blank(Alike):
    def load(self, index: int) -> Image.Image:
        return Image.new("RGB", (32, 32))


def bundle(images: ImageSet) -> DataBundle:
    return DataBundle(images, images.subset([]), images.subset([]))


def test_one_image_a_class(tiny: Any, tmp_path: Path) -> None:
    data = bundle(Alike([0, 1, 2], same=False))
    assert not failed(examine(tiny, tmp_path, tiny.phase(batch_norm="frozen"), data=data))


def test_what_cannot_judge_says_so(tiny: Any, tmp_path: Path) -> None:
    one = examine(tiny, tmp_path / "a", tiny.phase(), data=bundle(Alike([1] * 12, same=False)))
    assert not failed(one), one
    assert "of one class" in one["overfitting"].found
    dead = examine(tiny, tmp_path / "b", tiny.phase(batch_norm="frozen"), data=bundle(Blank([1] * 12)))
    assert not failed(dead), dead
    assert "answers alike" in dead["first loss"].found


def test_memory_that_runs_out(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five images at a time do not fit: the checks go on with fewer, and say nothing in the training's name."""
    forward = Feed.forward

    def full(feed: Feed, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > 4:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to")
        return forward(feed, inputs)

    monkeypatch.setattr(Feed, "forward", full)
    checks = examine(tiny, tmp_path, tiny.phase(train_from=0, batch_norm="frozen"))
    assert {check.status for name, check in checks.items() if name != "loader"} == {"ok"}, checks
    assert "out_of_memory" not in (tmp_path / "training.json").read_text()


def test_no_time(tiny: Any, tmp_path: Path) -> None:
    checks = examine(tiny, tmp_path, tiny.phase(), seconds=0.0)
    assert not failed(checks)
    assert {name for name, check in checks.items() if check.status == "skipped"} >= {
        "frozen parts",
        "overfitting",
    }
    assert checks["overfitting"].found == "0 s were not enough"


# --- without a trace -----------------------------------------------------------------------------------


def test_training_ends_as_it_would_have_without(tiny: Any, tmp_path: Path) -> None:
    ends = []
    for wanted in (False, True):
        folder = tmp_path / str(wanted)
        settings = tiny.recipe(preflight=wanted)
        plan = tiny.plan(PROBE, tiny.phase(batch_norm="frozen"))
        network = execute(plan, tiny.backbone(), tiny.bundle(), settings, folder)
        rows = [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in read_metrics(folder)
        ]
        ends.append((network.state_dict(), rows))
    (plain, rows), (checked, others) = ends
    assert [name for name in plain if not torch.equal(plain[name], checked[name])] == []
    assert rows == others


def test_job_is_untouched(tiny: Any, tmp_path: Path) -> None:
    def look(job: Any, images: Any) -> None:
        before = copy.deepcopy(job.backbone.state_dict())
        modes = [module.training for module in job.backbone.modules()]
        draws = torch.get_rng_state()
        preflight(job, images, math.inf)
        assert torch.equal(torch.get_rng_state(), draws)
        assert all(torch.equal(v, before[n]) for n, v in job.backbone.state_dict().items())
        assert [module.training for module in job.backbone.modules()] == modes
        assert job.optimizer.state_dict()["state"] == {}

    execute(tiny.plan(), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path, rehearse=look)


# --- planted faults ------------------------------------------------------------------------------------


def test_identical_images_with_different_labels(tiny: Any, tmp_path: Path) -> None:
    data = bundle(Alike([i % 3 for i in range(24)]))
    found = failed(examine(tiny, tmp_path, tiny.phase(), data=data))
    assert list(found) == ["overfitting"]
    assert "identical images have different labels (" in found["overfitting"].found
    assert ".png (a) = " in found["overfitting"].found or ".png (b) = " in found["overfitting"].found


def test_too_little_trains_is_a_warning(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.training.checks import overfit

    monkeypatch.setattr(overfit, "STEPS", 5)
    monkeypatch.setattr(overfit, "_HEAD_LR", 1e-9)
    checks = examine(tiny, tmp_path, tiny.phase(train_from=5), only="overfit")
    assert checks["overfitting"].status == "warning"
    assert "of 20 images right after 5 steps" in checks["overfitting"].found
    assert "train.train_stages" in checks["overfitting"].remedy


def detach(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
    return output.detach()


def test_detached_group(tiny: Any, tmp_path: Path) -> None:
    network = tiny.backbone()
    network.model.layer3[0].register_forward_hook(detach)
    found = failed(examine(tiny, tmp_path, tiny.phase(train_from=2), network=network))
    assert list(found) == ["gradients"]
    assert found["gradients"].found == "none reaches stage 2 (layer2), stage 3 (layer3), which should train."


def test_frozen_parameter_that_gets_gradients(tiny: Any, tmp_path: Path) -> None:
    def thaw(job: Any) -> None:
        job.feed.split = 0
        job.backbone.model.conv1[0].weight.requires_grad_(True)

    found = failed(examine(tiny, tmp_path, tiny.phase(train_from=2), change=thaw, only="gradients"))
    assert found["gradients"].found == "1 frozen parameters get gradients (model.conv1.0.weight ...)."


def test_gradients_that_are_no_numbers(tiny: Any, tmp_path: Path) -> None:
    def spoil(job: Any) -> None:
        with torch.no_grad():
            job.backbone.head.weight.fill_(math.nan)

    found = failed(examine(tiny, tmp_path, tiny.phase(), change=spoil))
    assert set(found) >= {"gradients", "first loss"}
    assert "train.precision=fp32" in found["gradients"].remedy
    assert "the loss is nan" in found["first loss"].found


def test_head_of_other_classes(tiny: Any, tmp_path: Path) -> None:
    found = failed(
        examine(
            tiny, tmp_path, tiny.phase(), change=lambda job: job.backbone.reset_head(7, 0), only="first_loss"
        )
    )
    assert found["first loss"].found == "the head has 7 outputs for 3 classes."


def test_solved_head_that_does_not_fit(tiny: Any, tmp_path: Path) -> None:
    def turn(job: Any) -> None:
        with torch.no_grad():
            job.backbone.head.weight.neg_()

    found = failed(
        examine(tiny, tmp_path, PROBE, tiny.phase(batch_norm="frozen"), change=turn, only="first_loss")
    )
    assert "does better than guessing" in found["first loss"].found


def test_fresh_head_that_is_sure(tiny: Any, tmp_path: Path) -> None:
    def sharpen(job: Any) -> None:
        with torch.no_grad():
            job.backbone.head.weight.mul_(300)

    check = examine(tiny, tmp_path, tiny.phase(), change=sharpen, only="first_loss")["first loss"]
    assert check.status == "warning"
    assert "a fresh head begins within 1 of that" in check.found


@pytest.mark.parametrize("fault", ["not divided", "divided twice", "another record"])
def test_preprocessing(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    network = tiny.backbone()
    right = Preprocessing.normalise
    if fault == "not divided":
        monkeypatch.setattr(Preprocessing, "normalise", lambda self, x: x.float())
    elif fault == "divided twice":
        monkeypatch.setattr(Preprocessing, "normalise", lambda self, x: right(self, x / 255))
    else:
        network.preprocessing = replace(network.preprocessing, mean=(0, 0, 0), interpolation="lanczos")
    check = failed(examine(tiny, tmp_path, tiny.phase(), network=network, only="preprocessing"))[
        "preprocessing"
    ]
    if fault == "another record":
        assert "mean (0.0, 0.0, 0.0) where the card of test_resnet says" in check.found
        assert "interpolation lanczos" in check.found
    else:
        assert "would follow from the card's mean and std" in check.found
        assert check.remedy.startswith("Normalise once, from [0, 255]")


def test_pixels_of_zero_and_one(tiny: Any, tmp_path: Path) -> None:
    data = bundle(Alike([i % 3 for i in range(12)], same=False, dark=True))
    found = failed(examine(tiny, tmp_path, tiny.phase(), data=data, only="preprocessing"))
    assert "all pixels are 0 or 1 of 255" in found["preprocessing"].found


def test_frozen_norms_in_train_mode(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backbone, "train", torch.nn.Module.train)
    phase = tiny.phase(train_from=0, batch_norm="frozen")
    found = failed(examine(tiny, tmp_path, phase, data=tiny.bundle(33, 0)))
    assert list(found) == ["frozen parts"]
    assert "running statistics of frozen norms changed in 2 steps" in found["frozen parts"].found
    assert "eval mode" in found["frozen parts"].remedy


def test_frozen_weight_that_moves(tiny: Any, tmp_path: Path) -> None:
    def change(job: Any) -> None:
        job.feed.split = 0
        job.backbone.model.conv1[0].register_forward_hook(nudge)

    found = failed(examine(tiny, tmp_path, tiny.phase(train_from=2), change=change, only="frozen"))
    assert (
        "1 tensors that should be frozen changed in 2 steps (model.conv1.0.weight ...)"
        in found["frozen parts"].found
    )


def nudge(module: Any, arguments: Any, output: torch.Tensor) -> None:
    module.weight.data.mul_(1.001)


def test_stage_that_does_not_move_is_a_warning(tiny: Any, tmp_path: Path) -> None:
    phase = tiny.phase(stage_decay=1e-30)
    check = examine(tiny, tmp_path, phase, only="frozen")["frozen parts"]
    assert check.status == "warning"
    assert "did not change in 2 steps" in check.found
    assert "train.stage_decay" in check.remedy


def test_weight_decay_that_is_not_wired(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.training import optim

    monkeypatch.setattr(optim, "decays", lambda name, parameter: False)
    found = failed(examine(tiny, tmp_path, tiny.phase()))
    assert list(found) == ["regularisation"]
    assert "matrices are left out" in found["regularisation"].found


def test_weight_decay_works_with_every_optimizer(tiny: Any, tmp_path: Path) -> None:
    found: dict[str, str] = {}

    def look(job: Any, images: Any) -> None:
        for name in OPTIMIZERS.names():
            phase = job.phase.model_copy(update={"optimizer": name})
            with on_a_copy(job, phase) as trial, pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "CHECKS", (regularisation,))
                (check,) = preflight(trial, images, math.inf).checks
            found[name] = check.status

    execute(tiny.plan(), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path, rehearse=look)
    assert {name for name, status in found.items() if status != "ok"} == set(), found
    assert len(found) >= 2


class Late(Alike):
    def load(self, index: int) -> Image.Image:
        time.sleep(0.1)
        return super().load(index)


def test_slow_loader(tiny: Any, tmp_path: Path) -> None:
    """Ten images a second and thread where a network of a few thousand numbers needs them."""
    data = bundle(Late([i % 3 for i in range(16)], same=False))
    check = examine(tiny, tmp_path, tiny.phase(epochs=1, train_from=5), data=data)["loader"]
    assert check.status == "warning"
    assert "it will wait for the images" in check.found
    assert "data.workers" in check.remedy


# --- the report and the run ----------------------------------------------------------------------------


def test_report() -> None:
    checks = (
        Check("a", "ok", "fine"),
        Check("b", "skipped", "2 s were not enough"),
        Check("c", "warning", "odd.", "Look."),
    )
    report = Report("tune", checks, 1.23)
    assert report.lines() == [
        "Preflight: 1 of 3 checks well, in 1.2 s; not judged: b (2 s were not enough).",
        "Warning: c: odd. Look.",
    ]
    report.require()
    others = (Check("e", "skipped", "of one class"), Check("f", "skipped", "2 s were not enough"))
    (line,) = Report("tune", (*checks[:2], *others), 2.0).lines()
    assert line.endswith("; not judged: b, f (2 s were not enough), e (of one class).")
    assert Report("tune", checks[:1], 0.04).lines() == ["Preflight: all 1 checks well, in 0.0 s."]
    bad = Report("tune", (Check("d", "failure", "wrong.", "Mend it."), *checks), 1.0)
    with pytest.raises(
        TrainingError, match=r"1 problem before phase 'tune':\n  - d: wrong\. Mend it\.\ntrain\.pre"
    ):
        bad.require()
    assert bad.to_dict()["checks"][0] == {
        "name": "d",
        "status": "failure",
        "found": "wrong.",
        "remedy": "Mend it.",
    }


def test_a_run_checks_each_kind_of_phase_once(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST", 60.0)
    told: list[str] = []

    class Words(Listener):
        def on_message(self, text: str) -> None:
            told.append(text)

    phase = tiny.phase(epochs=1)
    plan = tiny.plan(phase, phase.model_copy(update={"fit_on": "train+val", "name": "refit"}))
    execute(plan, tiny.backbone(), tiny.bundle(), tiny.recipe(preflight=True), tmp_path, Words())
    assert sum(text.startswith("Preflight: ") for text in told) == 1
    facts = json.loads((tmp_path / "training.json").read_text())
    (kept,) = [value for key, value in facts.items() if key.startswith("preflight of ")]
    assert [check["name"] for check in kept["checks"]][:2] == ["preprocessing", "gradients"]


def test_a_failure_stops_the_run_before_it_trains(tiny: Any, tmp_path: Path) -> None:
    network = tiny.backbone()
    network.model.layer3[0].register_forward_hook(detach)
    with pytest.raises(
        TrainingError, match=r"Preflight found 1 problem before phase 'finetune':\n  - gradients: none"
    ):
        execute(tiny.plan(), network, tiny.bundle(), tiny.recipe(preflight=True), tmp_path / "a")
    assert read_metrics(tmp_path / "a") == []
    execute(tiny.plan(tiny.phase(epochs=1)), network, tiny.bundle(), tiny.recipe(), tmp_path / "b")
