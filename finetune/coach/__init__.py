"""Reads the curves of a training and says in words what is wrong with it, and which recipe key mends it."""
