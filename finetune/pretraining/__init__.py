"""Train a backbone from scratch on a large labelled folder, so that others can be finetuned from it."""
