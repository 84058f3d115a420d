"""Training on labels and numbers: losses against torch, every strategy, resuming, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from finetune.data.imageset import DataBundle, ImageSet
from finetune.data.targets import strata_of_labels, strata_of_numbers
from finetune.errors import ConfigError, Interrupted
from finetune.evaluation.predict import predict_images
from finetune.events import Listener
from finetune.strategy import STRATEGIES
from finetune.strategy.context import Context
from finetune.strategy.plan import ProbePhase
from finetune.task import MULTI_LABEL, REGRESSION, Task
from finetune.training.execute import execute
from finetune.training.label_losses import LabelLoss, yes_weights
from finetune.training.losses import number_loss
from finetune.training.metrics_log import read_metrics
from finetune.training.objectives import objective_of
from finetune.training.refusals import refuse_impossible

TASKS = pytest.mark.parametrize("task", [MULTI_LABEL, REGRESSION], ids=["labels", "number"])


def valued(images: ImageSet, task: Task) -> ImageSet:
    """The class number of a patch as two labels (odd, above 0), or as 1000, 1100 or 1200."""
    classes = images.labels.copy()
    if task == MULTI_LABEL:
        images.values = np.stack([classes % 2 == 1, classes > 0], axis=1).astype(np.float32)
        images.classes, images.labels = ("odd", "positive"), strata_of_labels(images.values)
    else:
        images.values = (1000 + 100 * classes[:, None]).astype(np.float32)
        images.classes = ("size",)
        images.labels = strata_of_numbers(images.values[:, 0], images.values[:, 0])
    images.task = task
    return images


def bundle(tiny: ModuleType, task: Task) -> DataBundle:
    whole = tiny.bundle()
    made: DataBundle = replace(
        whole, **{p: valued(getattr(whole, p), task) for p in ("train", "val", "test")}
    )
    return made


def backbone(tiny: ModuleType, task: Task) -> Any:
    made = tiny.backbone()
    made.reset_head(2 if task == MULTI_LABEL else 1, 0)
    made.task = task.name
    return made


def train(tiny: ModuleType, task: Task, run: Path, *phases: Any, **keys: Any) -> Any:
    plan = tiny.plan(*phases)
    return execute(plan, backbone(tiny, task), bundle(tiny, task), tiny.recipe(), run, **keys)


def phases(tiny: ModuleType, task: Task, **keys: Any) -> tuple[Any, Any]:
    own = {"label_smoothing": 0.0, "loss": task.losses[0], "blend": (0.0, 0.5, 1.0), **keys}
    return ProbePhase(candidates=((4,),), folds=2), tiny.phase(**own)


# --- losses ---------------------------------------------------------------------------------------------


def test_label_loss_is_torchs_and_torchvisions() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(6, 3, generator=rng), (torch.rand(6, 3, generator=rng) > 0.6).float()
    weights = torch.tensor([1.0, 2.0, 0.5])
    wanted = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="sum") / 6
    assert torch.allclose(LabelLoss(weights)(logits, targets), wanted)
    wanted = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2.0, reduction="sum") / 6
    assert torch.allclose(LabelLoss(None, gamma=2.0)(logits, targets), wanted)
    smooth = F.binary_cross_entropy_with_logits(logits, 0.8 * targets + 0.1, reduction="sum") / 6
    assert torch.allclose(LabelLoss(None, smoothing=0.2)(logits, targets), smooth)


def test_weights_of_a_yes() -> None:
    targets = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]])
    assert yes_weights("balanced", targets, "abc").tolist() == [4, 1, 1]  # type: ignore[union-attr]
    assert yes_weights("sqrt", targets, "abc").tolist() == [2, 1, 1]  # type: ignore[union-attr]
    assert yes_weights({"b": 3.0}, targets, "abc").tolist() == [1, 3, 1]  # type: ignore[union-attr]
    assert yes_weights("none", targets, "abc") is None
    with pytest.raises(ConfigError, match="a mapping of labels in the data. Got d instead"):
        yes_weights({"d": 3.0}, targets, "abc")


def test_losses_of_numbers(tiny: ModuleType) -> None:
    a, b = torch.tensor([[0.0], [4.0]]), torch.tensor([[0.5], [1.0]])
    made = {
        name: float(number_loss(tiny.phase(loss=name, huber_delta=2.0))(a, b)) for name in REGRESSION.losses
    }
    assert made == {"mse": (0.25 + 9) / 2, "l1": 1.75, "huber": (0.125 + 2 * (3 - 1)) / 2}
    smooth = float(number_loss(tiny.phase(loss="huber"))(a, b))
    assert smooth == pytest.approx(float(F.smooth_l1_loss(a, b)))


@TASKS
def test_scores_and_what_guessing_costs(tiny: ModuleType, task: Task) -> None:
    images = bundle(tiny, task).train
    objective = objective_of(images)
    targets = objective.targets(images)
    assert bool(objective.right(20 * (targets - 0.5) if task == MULTI_LABEL else targets, targets).all())
    guess = torch.zeros_like(targets)
    assert float(objective.loss(guess, targets)) == pytest.approx(objective.chance, rel=1e-5)
    perfect = 20 * (targets - 0.5) if task == MULTI_LABEL else targets
    assert float(objective.scores(perfect, targets).mean()) == pytest.approx(1)
    if task == MULTI_LABEL:
        assert objective.scores(
            torch.tensor([[1.0, -1], [-1, -1]]), torch.tensor([[1.0, 1], [0, 0]])
        ).tolist() == (pytest.approx([2 / 3, 1]))


@pytest.mark.parametrize("kind", ["linear", "bottleneck"])
def test_a_head_comes_back_in_the_numbers_units(tiny: ModuleType, kind: str) -> None:
    network, objective = backbone(tiny, REGRESSION), objective_of(bundle(tiny, REGRESSION).train)
    if kind == "bottleneck":
        network.set_bottleneck(7, 1, 0)
    x = torch.randn(5, network.feature_width)
    before = network.head(x)
    objective.enter(network)
    inside = network.head(x)
    assert torch.allclose(inside, (before - 1100) / 100 / (2 / 3) ** 0.5, atol=1e-4)
    objective.leave(network)
    assert torch.allclose(network.head(x), before, atol=1e-2)


# --- whole trainings ------------------------------------------------------------------------------------


class Stop(Listener):
    """Stops a run at a step of a phase."""

    def on_step(self, row: dict[str, Any]) -> None:
        if row["step"] == 6:
            raise Interrupted("Stopped.")


@TASKS
def test_a_stopped_run_ends_like_one_that_was_not(tiny: ModuleType, tmp_path: Path, task: Task) -> None:
    plan = phases(tiny, task, mixup=0.4)
    whole = train(tiny, task, tmp_path / "whole", *plan)
    with pytest.raises(Interrupted):
        train(tiny, task, tmp_path / "cut", *plan, listener=Stop())
    again = train(tiny, task, tmp_path / "cut", *plan, resume=True)
    ours, theirs = again.state_dict(), whole.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    rows = read_metrics(tmp_path / "whole")
    ends = [row for row in rows if row["kind"] == "epoch"]
    assert len(ends) == 4
    assert all({f"val_{task.score}", "val_loss"} <= row.keys() for row in ends)
    assert not any("accuracy" in key for row in rows for key in row)
    assert f",{task.score}," in (tmp_path / "whole" / "metrics.csv").read_text().splitlines()[0]


@TASKS
def test_training_learns_and_answers_in_its_own_units(tiny: ModuleType, tmp_path: Path, task: Task) -> None:
    data = bundle(tiny, task)
    keys: dict[str, Any] = {"epochs": 12, "ema": None, "augment": "none", "train_from": 0, "blend": ()}
    keys |= (
        {"lr": 0.02, "head_lr": 0.05, "loss": "huber"}
        if task == REGRESSION
        else {"loss": "focal", "focal_gamma": 0.5}
    )
    trained = train(tiny, task, tmp_path, phases(tiny, task, **keys)[1])  # from a fresh head
    answers = predict_images(trained, data.val)
    if task == REGRESSION:
        error = np.abs(answers - data.val.targets).mean()
        assert error < 0.75 * np.abs(data.val.targets - 1100).mean()
    else:
        assert ((answers > 0.5) == data.val.targets).mean() > 0.8
        assert answers.min() >= 0
        assert answers.max() <= 1


@TASKS
@pytest.mark.parametrize("name", ["norm-bias", "multistage", "scratch"])
def test_strategies(tiny: ModuleType, tmp_path: Path, task: Task, name: str) -> None:
    data, network = bundle(tiny, task), backbone(tiny, task)
    settings = tiny.recipe(epochs=1, refit=False, augment="none")
    images = data.train

    def unmeasured() -> Any:
        raise AssertionError

    ctx = Context.of(
        settings, images.labels, len(images.classes), network, unmeasured, 12, task, images.values
    )
    assert ctx.n_train == 33
    plan = STRATEGIES.get(name)().plan(ctx)
    assert all(
        p.loss == task.losses[0] and p.label_smoothing == 0 for p in plan.phases if p.kind == "gradient"
    )
    done = execute(plan, network, data, settings, tmp_path)
    assert np.isfinite(predict_images(done, data.test)).all()


@TASKS
def test_preflight_knows_the_task(tiny: ModuleType, tmp_path: Path, task: Task) -> None:
    said: list[str] = []

    class Heard(Listener):
        def on_message(self, text: str) -> None:
            said.append(text)

    settings = tiny.recipe(preflight=True)
    plan = tiny.plan(*phases(tiny, task, epochs=1, augment="none"))
    execute(plan, backbone(tiny, task), bundle(tiny, task), settings, tmp_path, Heard())
    told = next(text for text in said if text.startswith("Preflight"))
    assert not [text for text in said if text.startswith("Failure")], said
    assert "first loss" not in told.partition("not judged")[2]


@TASKS
def test_snapshots_answer_in_the_tasks_units(tiny: ModuleType, tmp_path: Path, task: Task) -> None:
    from finetune.zoo.model_folder import load_backbone

    train(
        tiny,
        task,
        tmp_path,
        *phases(tiny, task, epochs=2, snapshots=2, ema=None, blend=(), loss=task.losses[1]),
    )
    kept = load_backbone(tmp_path / "snapshots" / "2")
    assert kept.task == task.name
    answers = predict_images(kept, bundle(tiny, task).test)
    assert (answers > 500).all() if task == REGRESSION else (answers <= 1).all()


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "keys", "message"),
    [
        (REGRESSION, {}, "train.loss must be mse or l1 or huber where the task is regression"),
        (MULTI_LABEL, {"loss": "mse"}, "train.loss must be bce or focal where the task is multi-label"),
        (REGRESSION, {"loss": "mse", "label_smoothing": 0.1}, "train.label_smoothing must be 0 where the task is reg"),
        (REGRESSION, {"loss": "mse", "class_weights": "balanced"}, "train.class_weights must be none where the task"),
        (MULTI_LABEL, {"loss": "bce", "sampling": "balanced"}, "train.sampling must be natural where the task is mul"),
        (MULTI_LABEL, {"loss": "bce", "monitor": "accuracy"}, "train.monitor must be loss or score where the task"),
    ],
)  # fmt: skip
def test_keys_that_mean_nothing(tiny: ModuleType, task: Task, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_impossible(tiny.plan(tiny.phase(**{"label_smoothing": 0.0, **keys})), ["a", "b"], task)


def test_numbers_cannot_be_learned_as_classes(tiny: ModuleType) -> None:
    with pytest.raises(
        ConfigError, match="train.loss must be cross-entropy or focal or bce where the task is single"
    ):
        refuse_impossible(tiny.plan(tiny.phase(loss="huber")), ["a", "b"])
    head = ProbePhase(candidates=((0,),), solver="lda")
    with pytest.raises(
        ConfigError, match="probe.solver must be auto or logistic where the task is multi-label"
    ):
        refuse_impossible(tiny.plan(head), ["a", "b"], MULTI_LABEL)
