"""What the trained network is worth: predictions, accuracy with its interval, figures per class."""
