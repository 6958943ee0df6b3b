"""An agent's training as a task: what the drivers of recipes train, judge, and bring back to an earlier state."""

import copy
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv

from rl_crop.core.errors import PruningError
from rl_crop.core.model import Subject
from rl_crop.core.recipes.timetable import Limits
from rl_crop.sb3.adapters import describe, unwrap
from rl_crop.sb3.along import Along
from rl_crop.sb3.batches import as_samples, checked_samples
from rl_crop.sb3.between_rollouts import agent_limits, between_updates, has_buffers, no_longer, training_batches
from rl_crop.sb3.data import BATCH_SIZE, N_BATCHES, RolloutMemory, agent_batches
from rl_crop.sb3.networks import Hyperparameters
from rl_crop.sb3.subject import algorithm_optimizers, policy_subject


def agent_subject(model: BaseAlgorithm, batches: Sequence[Any], beside: Along = Along()) -> Subject:  # noqa: B008
    """
    :param model: the agent.
    :param batches: scoring batches, normalised as the policy sees them; none are needed where nothing looks at data.
    :param beside: what the caller says of what is cut along.
    :return: what the core plans, cuts and masks.
    """
    policy = unwrap(model.policy)
    parts = describe(policy, Hyperparameters.of(model))
    samples = [parts.prepare(batch) for batch in checked_samples(batches, policy)]
    return policy_subject(policy, parts, samples, parts.losses, model, beside)


class AgentTask:
    """
    A :class:`~rl_crop.core.recipes.drivers.Task`: ``rl_crop.run_recipe(AgentTask(model, 100_000), "ltr", 0.9)``.

    Going back to a snapshot brings back weights, targets, optimizers, replay buffer, normalisation statistics, generators and
    the number of timesteps; the environment starts a new episode and goes on with its own generator.

    :param model: the agent, with an environment.
    :param total_timesteps: of a whole run, on which learning-rate schedules depend; a driver may train for several.
    :param eval_env: what :meth:`evaluate` plays in; drivers that compare candidates need it.
    :param n_eval_episodes: how many episodes it plays.
    :param batch_size: transitions in a scoring batch.
    :param callback: further callbacks, at every part of training.
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        total_timesteps: int,
        eval_env: GymEnv | None = None,
        n_eval_episodes: int = 10,
        batch_size: int = BATCH_SIZE,
        callback: Sequence[BaseCallback] = (),
    ) -> None:
        self.agent, self.total_timesteps = model, total_timesteps
        self.eval_env, self.n_eval_episodes = eval_env, n_eval_episodes
        self.batch_size, self.callback = batch_size, list(callback)
        self.end = model.num_timesteps + total_timesteps
        self.start = model.num_timesteps
        self.memory = RolloutMemory(N_BATCHES * batch_size)
        self._left_over = 0.0  # timesteps that earlier calls of train did too few (or, below 0, too many)

    @property
    def model(self) -> th.nn.Module:
        """The policy, critics and targets included."""
        return unwrap(self.agent.policy)

    @property
    def limits(self) -> Limits:
        """What an engine has to know of the run's time, in timesteps."""
        return agent_limits(self.agent, self.total_timesteps, self.batch_size, self.memory, self.start)

    @property
    def optimizers(self) -> Sequence[th.optim.Optimizer]:
        """Of all networks."""
        return algorithm_optimizers(self.agent)

    def loss(self, model: th.nn.Module, batch: Any) -> th.Tensor:
        """:return: the sum of the networks' objectives on a batch; ``model`` is the policy."""
        parts = describe(unwrap(model), Hyperparameters.of(self.agent))
        samples = parts.prepare(as_samples(batch, self.agent.device))
        losses = [objective(samples) for objective in parts.losses.values() if objective is not None]
        if not losses:
            raise PruningError(f"{type(self.agent).__name__} is trained without a gradient.")
        return th.stack([loss.reshape(()) for loss in losses]).sum()

    def batches(self, n: int) -> list[Any]:
        """:return: the latest rollouts or replay samples; where there are none, a rollout collected for the purpose."""
        self.memory.n_samples = max(self.memory.n_samples, n * self.batch_size)
        seed = int(self.agent.seed or 0)
        try:
            return training_batches(self.agent, self.memory, n, self.batch_size, seed)
        except PruningError:
            return agent_batches(self.agent, n, self.batch_size, seed + self.agent.num_timesteps)

    def subject(self, batches: Sequence[Any]) -> Subject:
        """:return: actor, critic and extractor with their targets."""
        return agent_subject(self.agent, batches)

    def train(self, share: float = 1.0, after_step: Callable[[float], None] | None = None) -> None:
        """
        Learn for a share of the run; ``after_step`` is called before every rollout, and at the end.

        The last rollout is played to its end. What this is too much, later calls do less, but one rollout at the least.
        """
        wanted = share * self.total_timesteps + self._left_over
        steps = max(round(wanted), min(round(share * self.total_timesteps), 1))
        done = 0
        if steps > 0:
            before = self.agent.num_timesteps
            callbacks = [_Between(self, steps, after_step), *self.callback, _WholeRun(self.end)]
            try:
                self.agent.learn(steps, callbacks, reset_num_timesteps=False)
            finally:
                _schedules_of_the_part(self.agent)
            done = max(self.agent.num_timesteps - before, steps)  # a callback that stops a part has done with it
        self._left_over = wanted - done

    def evaluate(self) -> float:
        """
        :return: the mean return of deterministic episodes.
        :raises PruningError: there is no environment for it.
        """
        if self.eval_env is None:
            raise PruningError("Candidates are compared by their returns: give AgentTask an eval_env.")
        return float(np.mean(evaluate_policy(self.agent, self.eval_env, self.n_eval_episodes)[0]))

    def snapshot(self) -> dict[str, Any]:
        """:return: a copy of all that :meth:`restore` brings back."""
        buffer: Any = getattr(self.agent, "replay_buffer", None)
        normalize = self.agent.get_vec_normalize_env()
        empty = type(buffer) in (ReplayBuffer, DictReplayBuffer) and buffer.size() == 0
        statistics = () if normalize is None else ("obs_rms", "ret_rms")
        state = {
            "parameters": self.agent.get_parameters(),
            "counters": {name: getattr(self.agent, name) for name in _COUNTERS if hasattr(self.agent, name)},
            "buffer": None if empty else buffer,
            "statistics": {name: getattr(normalize, name) for name in statistics if hasattr(normalize, name)},
            "generators": (random.getstate(), np.random.get_state(), th.get_rng_state()),
            "left_over": self._left_over,
        }
        return copy.deepcopy(state)

    def restore(self, state: dict[str, Any]) -> None:
        """Bring back a snapshot; the networks must have the shapes of then."""
        state = copy.deepcopy(state)
        self.agent.set_parameters(state["parameters"])
        for name, value in state["counters"].items():
            setattr(self.agent, name, value)
        if state["buffer"] is not None:
            self.agent.replay_buffer = state["buffer"]  # type: ignore[attr-defined]
        elif hasattr(self.agent, "replay_buffer"):
            self.agent.replay_buffer.reset()
        for name, value in state["statistics"].items():
            setattr(self.agent.get_vec_normalize_env(), name, value)
        random.setstate(state["generators"][0])
        np.random.set_state(state["generators"][1])
        th.set_rng_state(state["generators"][2])
        self._left_over = state["left_over"]
        self.agent._last_obs = None  # the next part of training begins with a new episode
        self.memory.clear()


_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_n_calls")
_PROGRESS = "_update_current_progress_remaining"


class _WholeRun(BaseCallback):
    """
    On-policy algorithms take the end of a call of ``learn`` for that of the run: while they train, they are told better.

    It is the last callback, and what it changes is undone before the next rollout: no other one saves the agent meanwhile.
    """

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, OnPolicyAlgorithm):
            setattr(self.model, _PROGRESS, partial(_progress_of_the_run, self.model, self.end))

    def _on_step(self) -> bool:
        return True


def _progress_of_the_run(agent: BaseAlgorithm, end: int, num_timesteps: int, total_timesteps: int) -> None:
    getattr(type(agent), _PROGRESS)(agent, min(num_timesteps, end), end)


def _schedules_of_the_part(agent: BaseAlgorithm) -> None:
    vars(agent).pop(_PROGRESS, None)


class _Between(BaseCallback):
    """Keeps rollouts for scoring, and calls a function between two of them."""

    def __init__(self, task: AgentTask, steps: int, after_step: Callable[[float], None] | None) -> None:
        super().__init__()
        self.task, self.steps, self.after_step = task, steps, after_step

    def _on_training_start(self) -> None:
        self.begun = self.num_timesteps
        self.model._total_timesteps = self.task.end  # schedules are of the whole run

    def _on_rollout_start(self) -> None:
        _schedules_of_the_part(self.model)
        if self.num_timesteps > self.begun and has_buffers(self.model):
            self._call((self.num_timesteps - self.begun) / self.steps)

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, OnPolicyAlgorithm):
            self.task.memory.add(self.model.rollout_buffer, int(self.model.seed or 0) + self.num_timesteps)
        if not has_buffers(self.model):
            progress = (self.num_timesteps - self.begun) / self.steps
            between_updates(self.model, lambda: self._call(progress))

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        no_longer(self.model)
        _schedules_of_the_part(self.model)
        self._call(1.0)

    def _call(self, progress: float) -> None:
        if self.after_step is not None:
            self.after_step(min(progress, 1.0))
