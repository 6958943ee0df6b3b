"""Agents as users write them: policies, extractors and algorithms of their own, that Stable-Baselines3 trains and saves."""

import copy
import functools
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import torch as th
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.sac.policies import SACPolicy
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.zoo.agents import PENDULUM, build


class Extractor(BaseFeaturesExtractor):
    """Two layers."""

    def __init__(self, space: spaces.Box, features_dim: int = 10) -> None:
        super().__init__(space, features_dim)
        self.net = nn.Sequential(nn.Linear(space.shape[0], 16), nn.Tanh(), nn.Linear(16, features_dim), nn.Tanh())

    def forward(self, x):
        return self.net(x)


class Given(Extractor):
    """An encoder that is handed over as an object."""

    def __init__(self, space: spaces.Box, encoder: nn.Module) -> None:
        super().__init__(space)
        self.net = encoder


class AutoEncoder(Extractor):
    """With a decoder that no policy runs."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.decoder = nn.Linear(10, space.shape[0])


class TrainingBranch(Extractor):
    """With a layer that only training runs."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.beside = nn.Linear(16, 10)

    def forward(self, x):
        hidden = self.net[1](self.net[0](x))
        return self.net[2](hidden) + (0.1 * self.beside(hidden) if self.training else 0.0)


class NoisyLayer(nn.Linear):
    """Noise on the weights, in training only."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        self.sigma = nn.Parameter(th.full((n_out, n_in), 0.02))

    def forward(self, x):
        return (
            F.linear(x, self.weight + self.sigma * th.randn_like(self.sigma), self.bias)
            if self.training
            else super().forward(x)
        )


class Noisy(Extractor):
    """Layers with noise."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.net = nn.Sequential(NoisyLayer(space.shape[0], 16), nn.ReLU(), NoisyLayer(16, 10))


class Scaled(Extractor):
    """A fixed gain that is not saved, because its class builds it."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.register_buffer("gain", th.linspace(0.1, 3, 16), persistent=False)

    def forward(self, x):
        return self.net[2:](self.net[:2](x) * self.gain)


class FixedWidths(ActorCriticPolicy):
    """A policy that says its own ``net_arch``."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **{**kwargs, "net_arch": {"pi": [12, 10], "vf": [14]}})


class FixedSoft(SACPolicy):
    """The same of SAC."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **{**kwargs, "net_arch": [12, 12]})


class DeepHeads(ActorCriticPolicy):
    """Heads of several layers."""

    def _build(self, lr_schedule) -> None:
        super()._build(lr_schedule)
        self.action_net = nn.Sequential(nn.Linear(self.mlp_extractor.latent_dim_pi, 10), nn.ReLU(), nn.Linear(10, 1))
        self.value_net = nn.Sequential(nn.Linear(self.mlp_extractor.latent_dim_vf, 10), nn.Tanh(), nn.Linear(10, 1))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1))


class HiddenLayers(nn.Module):
    """In the place of an ``MlpExtractor``: a trunk that both networks run, a layer of each, and a scale."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = 12, 10
        self.trunk = nn.Sequential(nn.Linear(n_features, 16), nn.LayerNorm(16), nn.Tanh())
        self.actor, self.critic = nn.Linear(16, 12), nn.Linear(16, 10)

    def forward(self, features):
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features):
        return self.actor(self.trunk(features)).relu()

    def forward_critic(self, features):
        return self.critic(self.trunk(features)).relu()


class OwnHidden(ActorCriticPolicy):
    """The custom network of the documentation of Stable-Baselines3."""

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = HiddenLayers(self.features_dim)


class OwnHiddenRecurrent(RecurrentActorCriticPolicy):
    """The same behind an LSTM."""

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = HiddenLayers(self.lstm_output_dim)


class OtherTraining(ActorCriticPolicy):
    """A critic that is trained in another way than it is used."""

    def evaluate_actions(self, obs, actions):
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return 2 * values, log_prob, entropy


class AuxiliaryHead(ActorCriticPolicy):
    """A head that a loss of the algorithm's own reads."""

    def _build(self, lr_schedule) -> None:
        super()._build(lr_schedule)
        self.head = nn.Linear(self.mlp_extractor.latent_dim_pi, 3)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1))


class Trains:
    """Does something more in every update: ``setup`` once, ``more`` each time."""

    def _setup_model(self) -> None:
        super()._setup_model()
        self.setup()

    def setup(self) -> None:
        """Nothing."""

    def train(self, *args, **kwargs) -> None:
        super().train(*args, **kwargs)
        self.more()

    def descend(self, optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Decoding(Trains, PPO):
    def more(self):
        x, extractor = next(self.rollout_buffer.get(32)).observations, self.policy.features_extractor
        self.descend(self.policy.optimizer, (extractor.decoder(extractor(x)) - x).pow(2).mean())


class HeadTraining(Trains, PPO):
    def more(self):
        features = self.policy.extract_features(next(self.rollout_buffer.get(32)).observations)
        self.descend(self.policy.optimizer, self.policy.head(self.policy.mlp_extractor.forward_actor(features)).pow(2).mean())


def holding(setup, more, algorithm=PPO) -> type:
    """:return: an algorithm that holds something, and uses it in every update."""
    return type(f"Own{algorithm.__name__}", (Trains, algorithm), {"setup": setup, "more": more})


def value_optimizer(model: PPO) -> th.optim.Optimizer:
    return th.optim.Adam([*model.policy.mlp_extractor.value_net.parameters(), *model.policy.value_net.parameters()])


def step_values(model: PPO, optimizer: th.optim.Optimizer) -> None:
    batch = next(model.rollout_buffer.get(32))
    model.descend(optimizer, (model.policy.predict_values(batch.observations).flatten() - batch.returns).pow(2).mean())


class Slots:
    """Keeps its attributes elsewhere than in ``__dict__``."""

    __slots__ = ("inner",)


def in_slots(model: PPO) -> None:
    model.slots = Slots()
    model.slots.inner = value_optimizer(model)


def in_closure(model: PPO) -> None:
    optimizer = value_optimizer(model)
    model.again = lambda: step_values(model, optimizer)


def follow(one: nn.Module, other: nn.Module) -> None:
    polyak_update(one.parameters(), other.parameters(), 0.1)


def keep(name, make):
    """:return: a setup that keeps what ``make`` returns for a model."""
    return lambda model: setattr(model, name, make(model))


HOLDING = {
    "optimizer": holding(keep("own", value_optimizer), lambda m: step_values(m, m.own)),
    "optimizer in a list": holding(
        keep("own", lambda m: {"a": [value_optimizer(m)]}), lambda m: step_values(m, m.own["a"][0])
    ),
    "optimizer in slots": holding(in_slots, lambda m: step_values(m, m.slots.inner)),
    "optimizer in a function": holding(in_closure, lambda m: m.again()),
    "optimizer in a partial": holding(
        keep("again", lambda m: functools.partial(step_values, m, value_optimizer(m))), lambda m: m.again()
    ),
    "optimizer in a scheduler": holding(
        keep("rates", lambda m: th.optim.lr_scheduler.ExponentialLR(value_optimizer(m), 0.9)),
        lambda m: step_values(m, m.rates.optimizer),
    ),
    "copy of the policy": holding(keep("own", lambda m: copy.deepcopy(m.policy)), lambda m: follow(m.policy, m.own)),
    "copies of a part": holding(
        keep("own", lambda m: SimpleNamespace(parts=[copy.deepcopy(m.policy.mlp_extractor)] * 2)),
        lambda m: [follow(m.policy.mlp_extractor, part) for part in m.own.parts],
    ),
    "averaged model": holding(keep("own", lambda m: AveragedModel(m.policy)), lambda m: m.own.update_parameters(m.policy)),
    "state dict": holding(
        keep("own", lambda m: {name: tensor.clone() for name, tensor in m.policy.state_dict().items()}),
        lambda m: [m.own[name].lerp_(tensor, 0.1) for name, tensor in m.policy.state_dict().items()],
    ),
    "list of parameters": holding(
        keep("own", lambda m: [p.detach().clone() for p in m.policy.parameters()]),
        lambda m: [own.lerp_(p.detach(), 0.1) for own, p in zip(m.own, m.policy.parameters(), strict=True)],
    ),
    "copy of an actor": holding(keep("own", lambda m: copy.deepcopy(m.actor)), lambda m: follow(m.actor, m.own), SAC),
    "copy of a Q-network": holding(keep("own", lambda m: copy.deepcopy(m.q_net)), lambda m: follow(m.q_net, m.own), DQN),
}
"""Algorithms by what they hold."""


class Drawn(gym.Env):
    """Observations that are drawn from their space."""

    def __init__(self, observations: spaces.Space, actions: spaces.Space | None = None) -> None:
        self.observation_space, self.action_space = observations, actions or spaces.Box(-1, 1, (1,))
        self.observation_space.seed(0)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), float(np.mean(action)), False, self.steps >= 20, {}


class Simulator(VecEnv):
    """An environment without gym environments inside, whose attributes cannot be asked for."""

    def __init__(self) -> None:
        self.render_mode = None
        self.drawn = np.random.default_rng(0)
        super().__init__(2, spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,)))

    def reset(self):
        return self.drawn.uniform(-1, 1, (2, 3)).astype(np.float32)

    def step_async(self, actions) -> None:
        """Nothing."""

    def step_wait(self):
        return self.reset(), np.zeros(2, np.float32), np.zeros(2, bool), [{}, {}]

    def close(self) -> None:
        """Nothing."""

    def env_is_wrapped(self, *args, **kwargs):
        return [False, False]

    def env_method(self, *args, **kwargs):
        raise NotImplementedError

    set_attr = env_method

    def get_attr(self, name, indices=None):
        raise AttributeError(name)


class Listing(Simulator):
    """Another, which takes lists of indices alone."""

    def get_attr(self, name, indices=None):
        return [None] * (2 if indices is None else len(indices))


class Present(Extractor):
    """A mean over what is there: none of it, and it is not a number."""

    def forward(self, x):
        return self.net(x) / (x[:, :2] > 0).float().sum(1, keepdim=True)


class Cards(Extractor):
    """Codes of cards from 1 to 5."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.net = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, x):
        return self.net(F.one_hot(x.long() - 1, 5).flatten(1).float())


class Logarithms(Extractor):
    """Of numbers that are never zero."""

    def forward(self, x):
        if not bool((x > 0).all()):
            raise ValueError("only positive numbers have a logarithm")
        return self.net(x.log())


def own(extractor=None, algorithm=PPO, policy=None, env=PENDULUM, **keywords):
    """:return: a function that builds such an agent."""
    given = {} if extractor is None else {"features_extractor_class": extractor}
    kwargs = {"policy_kwargs": given | keywords.pop("policy_kwargs", {}), **keywords}
    return lambda: build(algorithm, env, **kwargs, **({} if policy is None else {"policy": policy}))
