"""Callbacks with which tests look into training, or end it."""

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

Look = Callable[[BaseAlgorithm], Any]


class Watch(BaseCallback):
    """
    Functions of the agent.

    :param start: called when a rollout starts.
    :param step: called after every step.
    :param end: called when a rollout ends.
    :param stop: called after every step; training ends where it is true.
    """

    def __init__(self, start: Look | None = None, step: Look | None = None, end: Look | None = None, stop: Look | None = None):
        super().__init__()
        self.start, self.step, self.end, self.stop = start, step, end, stop

    def _on_rollout_start(self) -> None:
        if self.start is not None:
            self.start(self.model)

    def _on_step(self) -> bool:
        if self.step is not None:
            self.step(self.model)
        return self.stop is None or not self.stop(self.model)

    def _on_rollout_end(self) -> None:
        if self.end is not None:
            self.end(self.model)


class Stop(BaseCallback):
    """The user presses Ctrl-C."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.num_timesteps == self.at:
            raise KeyboardInterrupt
        return True
