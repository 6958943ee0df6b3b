"""Adapters: what the networks, objectives, data, optimizers and targets of a Stable-Baselines3 agent are."""
