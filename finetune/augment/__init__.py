"""Batched augmentation: a whole batch of images on the device that trains, one resampling and one colour map each.

Every policy of ``finetune.data`` that has a batched form is registered here under the same name.
"""

from __future__ import annotations

from finetune.data.policies import Policies

BATCHED = Policies("batched augmentation", "finetune.augment.rich:Composed")
BATCHED.add("light", "finetune.augment.policies:Light", "crops of 70-100%, flips")
BATCHED.add("standard", "finetune.augment.policies:Standard", "crops of 35-100%, flips, mild colour jitter")
BATCHED.add("strong", "finetune.augment.automatic:Strong", "crops of 25-100%, flips, TrivialAugment, erasing")
BATCHED.add("trivial", "finetune.augment.automatic:Trivial", "crops, flips, TrivialAugment Wide")
BATCHED.add("rand", "finetune.augment.automatic:Rand", "crops, flips, RandAugment")
BATCHED.add(
    "autoaugment", "finetune.augment.automatic:Auto", "crops, flips, AutoAugment's policy for ImageNet"
)
BATCHED.add("rich", "finetune.augment.rich:Rich", "every operation there is, mildly")


def where(asked: str, policy: str, device: str) -> str:
    """``device`` or ``loader``: where a policy's images are augmented, from what a recipe asks for.

    ``auto`` is the loader on a CPU, which has the sharper crops and computes both anyway, and the device elsewhere,
    where a batch costs next to nothing. A policy without a batched form stays in the loader, and ``none`` with it.

    >>> where("auto", "standard", "cpu"), where("auto", "standard", "cuda"), where("device", "none", "cuda")
    ('loader', 'device', 'loader')
    """
    if policy not in BATCHED or asked == "loader" or (asked == "auto" and device == "cpu"):
        return "loader"
    return "device"
