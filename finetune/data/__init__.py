"""What comes in: images, labels, splits, checks, evaluation preprocessing and augmentation."""

from finetune.data.policies import Policies

AUGMENTATIONS = Policies("augmentation", "finetune.augment.single:Composed")
AUGMENTATIONS.add("none", "finetune.data.augment:NoAugmentation", "the evaluation image, every time the same")
AUGMENTATIONS.add("light", "finetune.data.augment:Light", "crops of 70-100% of the image, left-right flips")
AUGMENTATIONS.add("standard", "finetune.data.augment:Standard", "crops of 35-100%, flips, mild colour jitter")
AUGMENTATIONS.add(
    "strong", "finetune.data.augment:Strong", "crops of 25-100%, flips, TrivialAugment, erasing"
)
AUGMENTATIONS.add("trivial", "finetune.data.augment:Trivial", "crops of 35-100%, flips, TrivialAugment Wide")
AUGMENTATIONS.add("rand", "finetune.data.augment:Rand", "crops of 35-100%, flips, RandAugment")
AUGMENTATIONS.add(
    "autoaugment", "finetune.data.augment:Auto", "crops of 35-100%, flips, AutoAugment's policy for ImageNet"
)
AUGMENTATIONS.add(
    "rich",
    "finetune.augment.single:Rich",
    "every operation there is, mildly: also warps, colour casts, blur, noise",
)
