"""Supervised tasks on the same core: an ordinary training loop, and what it minimises and measures."""
