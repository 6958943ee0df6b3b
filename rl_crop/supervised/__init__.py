"""Supervised tasks on the same core: data sets, networks, and an ordinary training loop."""
