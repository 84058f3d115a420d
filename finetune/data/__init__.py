"""What comes in: images, labels, splits, checks, evaluation preprocessing and augmentation."""
