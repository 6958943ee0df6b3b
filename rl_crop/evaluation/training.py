"""The training of an agent in a run: dense, with the callback that prunes, or by the driver of a recipe."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.recipes.drivers import resolve_recipe, run_recipe
from rl_crop.evaluation.building import build_pruning_callback
from rl_crop.evaluation.config import RunConfig
from rl_crop.sb3.task import AgentTask
from rl_crop.supervised.pruning import chosen_recipe

HOOKS = ("on_training_start", "on_rollout_start", "on_step", "on_rollout_end", "on_training_end")
"""Where a callback acts."""


@dataclass
class Stopwatch:
    """Time that has been added up so far, on the wall and on the processor."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the time that the block takes."""
        start, cpu_start = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start
            self.cpu_seconds += time.process_time() - cpu_start

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """:return: a function that does the same, and adds the time that it takes"""

        @wraps(function)
        def running(*args: Any, **keywords: Any) -> Any:
            with self.running():
                return function(*args, **keywords)

        return running

    def watch(self, owner: Any, *methods: str) -> None:
        """Add the time that methods of an object take."""
        for name in methods:
            setattr(owner, name, self.timed(getattr(owner, name)))


class Training:
    """
    Trains an agent as a run says. What is wrong with ``pruning`` raises here, before anything is built.

    ``pruning`` is the time that pruning has taken beside the training that it goes with, ``n_timesteps`` the environment
    steps of all runs that a recipe asked for, ``report`` what a driver said (the callback's are in ``pruning_history``).

    :param config: the run
    :param print_cuts: whether the pruning callback prints its table
    :raises ConfigError: the callback does not know an argument
    :raises PruningError: a recipe or its arguments are wrong
    """

    def __init__(self, config: RunConfig, print_cuts: bool = True) -> None:
        self.config = config
        self.pruning = Stopwatch()
        self.n_timesteps = 0
        self.report: PruningReport | None = None
        self._callbacks: list[BaseCallback] = []
        given = config.pruning
        self._recipe = None
        if given is not None and given.get("recipe") and resolve_recipe(given["recipe"]).driver != "single":
            self._recipe = chosen_recipe(given)
        elif given is not None:
            callback = build_pruning_callback({"verbose": int(print_cuts)} | given)
            callback.check_arguments()
            self._callbacks = [callback]
            self.pruning.watch(callback, *HOOKS)

    def run(
        self, model: BaseAlgorithm, seed: int, callbacks: Sequence[BaseCallback], eval_env: VecEnv, progress_bar: bool = False
    ) -> None:
        """
        :param model: the agent, untrained
        :param seed: of everything random in pruning, where a driver prunes
        :param callbacks: further callbacks
        :param eval_env: where a driver compares candidates
        :param progress_bar: show a progress bar; a driver shows none
        """
        if self._recipe is None:
            model.learn(self.config.n_timesteps, callback=[*self._callbacks, *callbacks], progress_bar=progress_bar)
            self.n_timesteps = model.num_timesteps
            return
        task = _TimedTask(
            model, self.config.n_timesteps, eval_env, self.config.evaluation.n_episodes, callback=list(callbacks)
        )
        with self.pruning.running():
            self.report = run_recipe(task, *self._recipe, seed)
        self.pruning.seconds -= task.training.seconds
        self.pruning.cpu_seconds -= task.training.cpu_seconds
        self.n_timesteps = task.n_timesteps


class _TimedTask(AgentTask):
    """Knows how long and for how many steps it has trained, evaluation included, what is done between steps not."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.training, self.n_timesteps = Stopwatch(), 0

    def train(self, share: float = 1.0, after_step: Callable[[float], None] | None = None) -> None:
        between, before = Stopwatch(), self.agent.num_timesteps
        with self.training.running():
            super().train(share, None if after_step is None else between.timed(after_step))
        self.training.seconds -= between.seconds
        self.training.cpu_seconds -= between.cpu_seconds
        self.n_timesteps += self.agent.num_timesteps - before
