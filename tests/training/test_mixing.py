"""Mixup, CutMix and noise: torchvision's pixels, and the same ones for the same (seed, epoch, batch)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from finetune.training.losses import shares
from finetune.training.mixing import Disturbance, disturbs

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def disturbed(tiny: Any, epoch: int = 0, batch: int = 0, seed: int = 7, **keys: Any) -> Any:
    return Disturbance(tiny.phase(**keys), 3, seed)(IMAGES, LABELS, epoch, batch)


def test_off_by_default(tiny: Any) -> None:
    assert not disturbs(tiny.phase())
    assert all(disturbs(tiny.phase(**{key: 0.1})) for key in ("mixup", "cutmix", "input_noise"))


def test_mixup_at_a_fixed_share_is_its_formula(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2.MixUp, "make_params", lambda self, inputs: {"lam": 0.3})
    x, y = disturbed(tiny, mixup=1.0)
    torch.testing.assert_close(x, 0.3 * IMAGES + 0.7 * IMAGES.roll(1, 0))
    torch.testing.assert_close(y, 0.3 * shares(LABELS, 3) + 0.7 * shares(LABELS, 3).roll(1, 0))


def test_cutmix_labels_are_the_shares_of_the_area(tiny: Any) -> None:
    for batch in range(5):
        x, y = disturbed(tiny, cutmix=1.0, batch=batch)
        own = (x == IMAGES).all(1)
        assert ((x == IMAGES.roll(1, 0)).all(1) | own).all()
        kept = own.float().mean((1, 2))
        torch.testing.assert_close(y[torch.arange(6), LABELS], kept)
        torch.testing.assert_close(y.sum(1), torch.ones(6))


@pytest.mark.parametrize(
    "keys", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}, {"input_noise": 0.2}]
)
def test_drawn_from_seed_epoch_and_batch_alone(tiny: Any, keys: dict[str, float]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = disturbed(tiny, **keys)
    assert torch.equal(torch.get_rng_state(), before)  # dropout and the like draw as if nothing had happened
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, disturbed(tiny, **keys), strict=True))
    for other in ({"epoch": 1}, {"batch": 1}, {"seed": 8}):
        assert not torch.equal(first[0], disturbed(tiny, **keys, **other)[0])


def test_shares_follow_the_beta_distribution(tiny: Any) -> None:
    """Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1))."""
    make = Disturbance(tiny.phase(mixup=0.5), 3, 0)
    lam = torch.stack([make(IMAGES[:2, :, :1, :1], torch.tensor([0, 1]), 0, i)[1][0, 0] for i in range(600)])
    assert float(lam.mean()) == pytest.approx(0.5, abs=0.08)
    assert float(lam.var()) == pytest.approx(1 / 8, abs=0.03)


def test_with_both_a_coin_decides_each_batch(tiny: Any) -> None:
    cut = [bool((disturbed(tiny, mixup=1.0, cutmix=1.0, batch=i)[0] == IMAGES).any()) for i in range(60)]
    assert 10 < sum(cut) < 50


def test_noise_has_its_deviation_and_leaves_labels_alone(tiny: Any) -> None:
    x, y = Disturbance(tiny.phase(input_noise=0.3), 3, 0)(torch.zeros(4, 3, 64, 64), LABELS[:4], 0, 0)
    assert float(x.std()) == pytest.approx(0.3, rel=0.03)
    assert abs(float(x.mean())) < 0.01
    assert torch.equal(y, LABELS[:4])
