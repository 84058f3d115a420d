"""The same pictures on a GPU as on the CPU, from the same draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from photos import batch

from finetune.augment import BATCHED
from finetune.augment.draws import Counted
from finetune.data.preprocessing import Preprocessing

PREP = Preprocessing(64, 0.875, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*BATCHED.names(), "standard/short-side", "crop+rotation+noise"])
def test_a_gpu_makes_the_same_pictures(name: str) -> None:
    policy, photos = BATCHED.get(name)(PREP), batch(128).repeat(8, 1, 1, 1)
    samples = np.arange(64)
    made = [
        policy(photos.to(device), Counted(5, 1, samples, 0 * samples), np.full(64, 4 / 3)).cpu().int()
        for device in ("cpu", "cuda", "cuda")
    ]
    assert torch.equal(made[1], made[2])
    # A level of rounding; where it decides on which side of a threshold a pixel falls, solarize and equalize jump.
    assert ((made[0] - made[1]).abs() > 1).float().mean() < 2e-3
