"""The deterministic actor of any policy as one module: observation in, action of the environment's scale out."""

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.export.decision import Bounded, Choice, Threshold, make_decision
from rl_crop.export.preparation import make_preparation
from rl_crop.export.source import Source

MASKS, STARTS = "action_masks", "episode_start"
STATES = ("hidden_state", "cell_state")


@dataclass(frozen=True)
class Port:
    """
    An input or output.

    :param name: in the file
    :param shape: without the batch axis
    :param dtype: of its numbers
    :param batch_axis: where the batch axis stands; second for the states of an LSTM, first for all others
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    batch_axis: int = 0

    def empty(self, n: int) -> np.ndarray:
        """:return: zeros for ``n`` observations."""
        return np.zeros((*self.shape[: self.batch_axis], n, *self.shape[self.batch_axis :]), self.dtype)

    def in_batches(self) -> str:
        """:return: type and shape, in words."""
        axes = [*map(str, self.shape[: self.batch_axis]), "batch", *map(str, self.shape[self.batch_axis :])]
        return f"{self.dtype} ({', '.join(axes)})"


class Actor(nn.Module):
    """
    A copy of what a policy needs for its deterministic action, on the CPU and in evaluation mode.

    :param preparations: one for each observation
    :param keys: those of a dictionary observation, in the order of ``preparations``; ``None`` where there is one array
    :param features_extractor: of the actor
    :param lstm: between the features and the head, in recurrent policies
    :param head: from features to scores
    :param decision: from scores to the action
    :param inputs: in the order of ``forward``: observations, then masks of actions or the states of the LSTM and the starts
        of episodes
    :param outputs: the action, then the states of the LSTM
    """

    def __init__(
        self,
        preparations: list[nn.Sequential],
        keys: tuple[str, ...] | None,
        features_extractor: nn.Module,
        lstm: nn.LSTM | None,
        head: nn.Module,
        decision: Choice | Threshold | Bounded,
        inputs: list[Port],
        outputs: list[Port],
    ) -> None:
        super().__init__()
        self.preparations = nn.ModuleList(preparations)
        self.keys = keys
        self.features_extractor, self.lstm, self.head, self.decision = features_extractor, lstm, head, decision
        self.inputs, self.outputs = inputs, outputs

    @property
    def n_observations(self) -> int:
        """How many of the inputs are observations."""
        return len(self.preparations)

    def forward(self, *inputs: th.Tensor) -> tuple[th.Tensor, ...]:
        scores, masks, states = self.evaluate(*inputs)
        return self.decision(scores, *masks), *states

    def evaluate(self, *inputs: th.Tensor) -> tuple[th.Tensor, tuple[th.Tensor, ...], tuple[th.Tensor, ...]]:
        """
        :param inputs: as of ``forward``
        :return: the scores of the last layer, the masks of actions that were among the inputs, the next states of the LSTM
        """
        prepared = [prepare(x) for prepare, x in zip(self.preparations, inputs)]
        rest = inputs[len(prepared) :]
        x = self.features_extractor(prepared[0] if self.keys is None else dict(zip(self.keys, prepared)))
        if self.lstm is None:
            return self.head(x), rest, ()
        hidden, cell, starts = rest
        keep = 1.0 - starts.float().reshape(1, -1, 1)
        x, states = self.lstm(x.unsqueeze(0), (keep * hidden, keep * cell))
        return self.head(x.squeeze(0)), (), states


def make_actor(policy: BasePolicy, source: Source) -> Actor:
    """
    :param policy: a policy of any algorithm of Stable-Baselines3 or SB3-Contrib
    :param source: what the file takes as its observation
    :return: its actor
    :raises PruningError: the policy is built in another way
    """
    owner, head, n_quantiles = _find_head(policy)
    features_extractor = getattr(owner, "pi_features_extractor", owner.features_extractor)
    lstm = getattr(policy, "lstm_actor", None)
    masked = MASKS in inspect.signature(policy.predict).parameters
    decision = make_decision(policy.action_space, policy.squash_output, masked, n_quantiles)

    keys = tuple(policy.observation_space.spaces) if isinstance(policy.observation_space, spaces.Dict) else None
    parts: list[tuple[str | None, Any, Any]] = [(None, policy.observation_space, source.space)]
    if keys is not None:
        parts = [(key, policy.observation_space[key], source.space[key]) for key in keys]  # type: ignore[index]
    preparations = [make_preparation(source, key, space, owner.normalize_images) for key, space, _ in parts]
    inputs = [Port(key or "observation", raw.shape, _input_type(raw)) for key, _, raw in parts]
    outputs = [Port("action", decision.shape, decision.dtype)]
    if masked:
        assert isinstance(decision, Choice)
        inputs.append(Port(MASKS, (sum(decision.sizes),), np.dtype(bool)))
    if lstm is not None:
        states = [Port(name, (lstm.num_layers, lstm.hidden_size), np.dtype(np.float32), 1) for name in STATES]
        inputs += [*states, Port(STARTS, (), np.dtype(bool))]
        outputs += [Port(f"next_{port.name}", port.shape, port.dtype, 1) for port in states]
    names = [port.name for port in (*inputs, *outputs)]
    if len(set(names)) < len(names):
        raise PruningError(f"Two inputs or outputs have the same name ({', '.join(names)}): rename the observation's key.")
    actor = Actor(preparations, keys, features_extractor, lstm, head, decision, inputs, outputs)
    return copy.deepcopy(actor).cpu().eval()


def _input_type(space: spaces.Space) -> np.dtype:
    """:return: single precision for all that is no whole number: what the networks calculate in."""
    return np.dtype(np.float32 if np.issubdtype(space.dtype, np.floating) else space.dtype)


def _find_head(policy: Any) -> tuple[Any, nn.Module, int]:
    """:return: the module that owns the features extractor, the layers from features to scores, quantiles of each score."""
    if hasattr(policy, "actor"):
        actor = policy.actor
        if hasattr(actor, "latent_pi"):  # SAC, TQC, CrossQ
            return actor, nn.Sequential(actor.latent_pi, actor.mu, nn.Tanh()), 1
        if hasattr(actor, "mu"):  # TD3, DDPG: their networks end in a tanh
            return actor, actor.mu, 1
    elif hasattr(policy, "mlp_extractor") and hasattr(policy, "action_net"):  # PPO and its kin
        layers = [ActorHalf(policy.mlp_extractor), policy.action_net]
        return policy, nn.Sequential(*layers, *([nn.Tanh()] if policy.squash_output else [])), 1
    elif hasattr(policy, "q_net"):  # DQN
        return policy.q_net, policy.q_net.q_net, 1
    elif hasattr(policy, "quantile_net"):  # QR-DQN
        return policy.quantile_net, policy.quantile_net.quantile_net, policy.quantile_net.n_quantiles
    elif hasattr(policy, "action_net"):  # ARS
        return policy, policy.action_net, 1
    raise PruningError(
        f"{type(policy).__name__} is not built like a policy of Stable-Baselines3 or SB3-Contrib: "
        "there is no actor, mlp_extractor with action_net, q_net, quantile_net or action_net to export."
    )


class ActorHalf(nn.Module):
    """
    The actor's half of a ``mlp_extractor``.

    :param mlp_extractor: of an actor-critic policy
    """

    def __init__(self, mlp_extractor: nn.Module) -> None:
        super().__init__()
        self.mlp_extractor: Any = mlp_extractor

    def forward(self, features: th.Tensor) -> th.Tensor:
        return self.mlp_extractor.forward_actor(features)
