"""Losses against their formulas, torch and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from finetune.errors import ConfigError
from finetune.task import SINGLE_LABEL
from finetune.training.losses import build_loss, class_weights, dominant, shares
from finetune.training.meter import Meter

CLASSES = ("cat", "dog", "hen", "owl")
LABELS = torch.tensor([0] * 6 + [1] * 3 + [2] * 2 + [3])
WEIGHTS = {"cat": 0.5, "dog": 1.0, "hen": 2.0, "owl": 4.0}


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(0)) * 2


def soft(seed: int = 1) -> torch.Tensor:
    return torch.rand(12, 4, generator=torch.Generator().manual_seed(seed)).softmax(1)


def made(tiny: Any, **keys: Any) -> nn.Module:
    return build_loss(tiny.phase(**{"label_smoothing": 0.0, **keys}), LABELS, CLASSES)


@pytest.mark.parametrize("name", SINGLE_LABEL.losses)
def test_every_loss_is_a_mean_over_images_and_hard_targets_are_a_case_of_soft_ones(
    tiny: Any, name: str, logits: torch.Tensor
) -> None:
    for keys in ({}, {"class_weights": "balanced"}, {"label_smoothing": 0.1, "class_weights": WEIGHTS}):
        loss = made(tiny, loss=name, **keys)
        whole = loss(logits, LABELS)
        assert whole.ndim == 0
        torch.testing.assert_close(loss(logits, shares(LABELS, 4)), whole)
        torch.testing.assert_close(
            (loss(logits[:4], LABELS[:4]) * 4 + loss(logits[4:], LABELS[4:]) * 8) / 12, whole
        )


@pytest.mark.parametrize("name", SINGLE_LABEL.losses)
def test_every_loss_has_finite_slopes_where_the_network_is_sure(tiny: Any, name: str) -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0, 0.0], [0.0, 200.0, 0.0, 0.0]], requires_grad=True)
    made(tiny, loss=name, focal_gamma=0.5)(logits, torch.tensor([0, 2])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_cross_entropy_without_weights_is_torch_s_own(tiny: Any) -> None:
    assert type(made(tiny, label_smoothing=0.1)) is nn.CrossEntropyLoss


@pytest.mark.parametrize("targets", ["hard", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_cross_entropy_is_its_formula(
    tiny: Any, logits: torch.Tensor, targets: str, smoothing: float
) -> None:
    y = LABELS if targets == "hard" else soft()
    loss = made(tiny, class_weights=WEIGHTS, label_smoothing=smoothing)
    t = (F.one_hot(LABELS, 4).double() if targets == "hard" else soft().double()) * (
        1 - smoothing
    ) + smoothing / 4
    w = torch.tensor([0.5, 1.0, 2.0, 4.0]).double()
    wanted = -(w * t * logits.double().log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss(logits, y).double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_its_formula(tiny: Any, logits: torch.Tensor, gamma: float) -> None:
    p = logits.double().softmax(1)[torch.arange(12), LABELS]
    wanted = (-((1 - p) ** gamma) * p.log()).mean()
    loss = made(tiny, loss="focal", focal_gamma=gamma)(logits, LABELS)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keys", [{}, {"label_smoothing": 0.1}, {"class_weights": "balanced"}])
def test_focal_with_gamma_0_is_cross_entropy_slopes_too(
    tiny: Any, logits: torch.Tensor, keys: dict[str, Any]
) -> None:
    slopes = []
    for name in ("focal", "cross-entropy"):
        x = logits.clone().requires_grad_()
        made(tiny, loss=name, focal_gamma=0.0, **keys)(x, soft()).backward()
        slopes.append(x.grad)
    torch.testing.assert_close(slopes[0], slopes[1])


def test_focal_looks_away_from_easy_images(tiny: Any) -> None:
    easy, hard = torch.tensor([[4.0, 0, 0, 0]]), torch.tensor([[-1.0, 0, 0, 0]])
    y = torch.tensor([0])
    focal, plain = made(tiny, loss="focal"), made(tiny)
    assert focal(easy, y) / focal(hard, y) < 0.02 * plain(easy, y) / plain(hard, y)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bce_is_torch_s_summed_over_classes(tiny: Any, logits: torch.Tensor, smoothing: float) -> None:
    targets = F.one_hot(LABELS, 4).float() * (1 - smoothing) + smoothing / 4
    w = torch.tensor([0.5, 1.0, 2.0, 4.0])
    wanted = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=w, reduction="sum") / 12
    loss = made(tiny, loss="bce", class_weights=WEIGHTS, label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, LABELS), wanted)


def test_balanced_weights_are_scikit_learn_s() -> None:
    wanted = compute_class_weight("balanced", classes=np.arange(4), y=LABELS.numpy())
    weights = class_weights("balanced", torch.bincount(LABELS), CLASSES)
    assert weights is not None
    np.testing.assert_allclose(weights.numpy(), wanted, rtol=1e-6)


def test_root_weights_are_milder_and_have_mean_1_over_the_images() -> None:
    counts = torch.bincount(LABELS)
    weights, full = class_weights("sqrt", counts, CLASSES), class_weights("balanced", counts, CLASSES)
    assert weights is not None
    assert full is not None
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1)
    torch.testing.assert_close(weights / weights[0], (full / full[0]).sqrt())


@pytest.mark.parametrize("kind", ["balanced", "sqrt"])
def test_a_class_without_images_changes_no_other_weight(kind: str) -> None:
    with_it = class_weights(kind, torch.tensor([6, 0, 2]), ("a", "b", "c"))
    without = class_weights(kind, torch.tensor([6, 2]), ("a", "c"))
    assert with_it is not None
    assert without is not None
    assert with_it[1] == 1
    torch.testing.assert_close(with_it[[0, 2]], without)


def test_named_weights_leave_the_others_at_1_and_unknown_names_are_told() -> None:
    named = class_weights({"hen": 3.0}, torch.ones(4, dtype=torch.int64), CLASSES)
    assert named is not None
    assert named.tolist() == [1, 1, 3, 1]
    with pytest.raises(
        ConfigError,
        match=r"class_weights must be a mapping of classes in the data. Got hem instead. Did you mean \"hen\"",
    ):
        class_weights({"hem": 3.0}, torch.ones(4, dtype=torch.int64), CLASSES)


def test_accuracy_counts_the_dominant_class_of_mixed_labels() -> None:
    meter = Meter(torch.device("cpu"))
    targets = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    meter.add(torch.tensor(1.0), torch.tensor([[2.0, 1], [2, 1], [2, 1]]), targets)
    assert meter.read()["accuracy"] == pytest.approx(2 / 3)
    assert dominant(targets).tolist() == [0, 1, 0]
