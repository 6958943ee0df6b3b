"""A guard after the cut: says once where returns fall behind what they were, and stay behind."""

import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from rl_crop.sb3.progress import Progress

BEHIND = 0.1
"""Share of the return before the cut that may be missing, beside two standard errors of both means."""
PATIENCE = 0.1
"""Share of the run for which returns must have been behind."""
EPISODES = 10
"""Least number of episodes on either side."""


class ReturnGuard:
    """
    Compares the returns of training episodes after a cut with those of before (``Monitor`` reports them).

    :param length: timesteps of the run.
    """

    def __init__(self, length: int) -> None:
        self.progress = Progress()
        self.patience = max(PATIENCE * length, 1.0)
        self.before: list[float] = []
        self.after: deque[float] = deque(maxlen=100)
        self.behind_since: float | None = None
        self.said = False

    def begin(self, model: BaseAlgorithm) -> None:
        """The agent has just been cut: what it did is what it is to do."""
        self.before = [float(episode["r"]) for episode in model.ep_info_buffer or []]
        self.after.clear()
        self.behind_since, self.said = None, False

    def look(self, infos: Sequence[Mapping[str, Any]], now: float) -> None:
        """
        :param infos: of one step, by environment.
        :param now: the time.
        """
        self.progress.look(infos)
        ended = [float(info["episode"]["r"]) for info in infos if "episode" in info]
        if self.said or not ended or len(self.before) < EPISODES:
            return
        self.after.extend(ended)
        if len(self.after) < EPISODES:
            return
        before, after = np.array(self.before), np.array(self.after)
        error = np.sqrt(before.var() / len(before) + after.var() / len(after))
        if after.mean() >= before.mean() - BEHIND * abs(before.mean()) - 2 * error:
            self.behind_since = None
            return
        self.behind_since = now if self.behind_since is None else self.behind_since
        if now - self.behind_since >= self.patience:
            self.said = True
            warnings.warn(
                f"Since the cut the agent falls behind: returns were {before.mean():.4g} before, and are {after.mean():.4g} "
                f"at {now:,.0f} steps, for {now - self.behind_since:,.0f} steps already. More may be left (a smaller "
                "tolerance= or sparsity=), or the cut may come later (earliest=, latest=).",
                stacklevel=2,
            )
