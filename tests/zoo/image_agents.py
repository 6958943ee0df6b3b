"""Agents that look at images, a cut of their features extractors at chosen units, and what a test reads off them."""

from functools import partial

import gymnasium as gym
import numpy as np
import torch as th
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from sb3_contrib import QRDQN
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from rl_crop.core.graph.groups import find_units, named_tensors
from rl_crop.core.pruning.surgery import Transaction, cut, update_sizes
from rl_crop.sb3.adapters import describe
from rl_crop.sb3.attributes import rewrite_sizes
from rl_crop.sb3.subject import algorithm_optimizers

SIDE = 44  # maps of 2 x 2 after NatureCNN's convolutions


class DictEnv(FakeImageEnv):
    """An image, a vector and a number."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.observation_space = spaces.Dict(
            {"image": self.observation_space, "place": spaces.Box(-1, 1, (3,)), "door": spaces.Discrete(4)}
        )


class OwnExtractor(BaseFeaturesExtractor):
    """A user's own: convolutions with BatchNorm, a residual block, a depthwise convolution and a LayerNorm."""

    def __init__(self, observation_space: gym.Space, features_dim: int = 12, channels: int = 8) -> None:
        super().__init__(observation_space, features_dim)
        self.stem = nn.Sequential(
            nn.Conv2d(observation_space.shape[0], channels, 8, stride=6, bias=False), nn.BatchNorm2d(channels)
        )
        self.inner = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.outer = nn.Conv2d(6, channels, 3, padding=1)
        self.depthwise = nn.Conv2d(channels, channels, 3, stride=2, groups=channels)
        side = (((SIDE - 8) // 6 + 1) - 3) // 2 + 1
        self.linear = nn.Linear(channels * side**2, features_dim)
        self.norm = nn.LayerNorm(features_dim)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.outer(self.inner(x)))
        return F.relu(self.norm(self.linear(F.relu(self.depthwise(x)).flatten(1))))


def on_policy(env=FakeImageEnv, **policy_kwargs):
    env = env(screen_height=SIDE, screen_width=SIDE, n_channels=1)
    return PPO(
        policy_name(env), env, n_steps=16, batch_size=8, n_epochs=1, learning_rate=1e-2, seed=0,
        policy_kwargs=policy_kwargs, device="cpu",
    )  # fmt: skip


def off_policy(algorithm, env=FakeImageEnv, discrete=False, **policy_kwargs):
    env = env(screen_height=SIDE, screen_width=SIDE, n_channels=1, discrete=discrete)
    return algorithm(
        policy_name(env), env, learning_starts=12, batch_size=8, train_freq=4, learning_rate=1e-2, buffer_size=50, seed=0,
        policy_kwargs=policy_kwargs, device="cpu",
    )  # fmt: skip


def policy_name(env):
    return "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "CnnPolicy"


SMALL, NETS = {"features_extractor_kwargs": {"features_dim": 20}}, {"net_arch": [16]}
OWN = {"features_extractor_class": OwnExtractor, "features_extractor_kwargs": {"features_dim": 10}, **NETS}
SEPARATE, SHARED = {"share_features_extractor": False}, {"share_features_extractor": True}
AGENTS = {
    "ppo": partial(on_policy, **SMALL),
    "ppo_separate": partial(on_policy, **SMALL, **NETS, **SEPARATE),
    "ppo_dict": partial(on_policy, DictEnv, features_extractor_kwargs={"cnn_output_dim": 16}),
    "ppo_own": partial(on_policy, **OWN),
    "dqn": partial(off_policy, DQN, discrete=True, **SMALL),
    "dqn_own": partial(off_policy, DQN, discrete=True, **OWN),
    "qrdqn_dict": partial(off_policy, QRDQN, DictEnv, discrete=True, features_extractor_kwargs={"cnn_output_dim": 16}),
    "sac": partial(off_policy, SAC, **SMALL, **NETS),
    "sac_shared": partial(off_policy, SAC, **SMALL, **NETS, **SHARED),
    "sac_own": partial(off_policy, SAC, **OWN),
    "td3": partial(off_policy, TD3, **SMALL, **NETS),
    "td3_own_shared": partial(off_policy, TD3, **OWN, **SHARED),
}


def observe(model, n=5):
    """Some observations, as tensors."""
    space = model.observation_space
    space.seed(3)
    drawn = [space.sample() for _ in range(n)]
    stacked = {key: np.stack([one[key] for one in drawn]) for key in space} if isinstance(drawn[0], dict) else np.stack(drawn)
    return model.policy.obs_to_tensor(stacked)[0]


def networks(policy):
    """By network: a function of observations, the followed module and its target (``None`` where there is none)."""
    if hasattr(policy, "mlp_extractor"):

        def both(observations):
            features = policy.extract_features(observations)
            pi, vf = features if isinstance(features, tuple) else (features, features)
            mlp = policy.mlp_extractor
            return policy.action_net(mlp.forward_actor(pi)), policy.value_net(mlp.forward_critic(vf))

        return {"policy": (both, policy, None)}
    if not hasattr(policy, "actor"):
        name = "q_net" if hasattr(policy, "q_net") else "quantile_net"
        return {"critic": (getattr(policy, name), getattr(policy, name), getattr(policy, f"{name}_target"))}
    actor, critic = policy.actor, policy.critic

    def act(observations):
        return actor(observations) if hasattr(policy, "actor_target") else actor.get_action_dist_params(observations)[:2]

    def value(observations):
        n = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
        return critic(observations, th.linspace(-1, 1, n * 5).reshape(n, 5))

    return {"actor": (act, actor, getattr(policy, "actor_target", None)), "critic": (value, critic, policy.critic_target)}


def outputs(policy, observations):
    """What every trained network computes, in evaluation mode."""
    policy.set_training_mode(False)
    with th.no_grad():
        found = [function(observations) for function, _, _ in networks(policy).values()]
    return [x for out in found for x in (out if isinstance(out, (tuple, list)) else (out,))]


def extractors(policy):
    """In order of construction, each once."""
    if hasattr(policy, "mlp_extractor"):
        found = [policy.pi_features_extractor, policy.vf_features_extractor]
    elif hasattr(policy, "actor_target"):
        found = [policy.actor, policy.actor_target, policy.critic, policy.critic_target]
    elif hasattr(policy, "actor"):
        found = [policy.actor, policy.critic, policy.critic_target]
    else:
        found = [module for _, *modules in networks(policy).values() for module in modules]
    found = [getattr(module, "features_extractor", module) for module in found]
    return list({id(module): module for module in found}.values())


def trace(policy, observations):
    """The units of the extractors, and every trained tensor by name."""
    parts = networks(policy).values()
    targets = {id(tensor) for _, _, target in parts if target is not None for tensor in named_tensors(target).values()}
    tensors = {name: tensor for name, tensor in named_tensors(policy).items() if id(tensor) not in targets}
    graph = find_units(policy, tensors, [lambda run=run: run(observations) for run, _, _ in parts], 5)
    own = {id(tensor) for module in extractors(policy) for tensor in named_tensors(module).values()}
    return graph, {name: group for name, group in graph.groups.items() if id(tensors[group.tensors("out")[0]]) in own}, tensors


def choose(groups, whole=(), share=0.4, seed=0):
    """Kept units of every group but those whose name holds one of ``whole``; other numbers for actor and critic."""
    rng = np.random.default_rng(seed)
    kept = {}
    for name, group in groups.items():
        if not any(part in name for part in whole):
            n_kept = max(1, round(group.n_units * (1 - share)) - ("critic" in name or "vf_" in name))
            kept[name] = np.sort(rng.choice(group.n_units, n_kept, replace=False))
    return kept


def cut_extractors(model, whole=(), transaction=None, **choice):
    """Cut the extractors of an agent and describe them."""
    policy = model.policy
    graph, groups, tensors = trace(policy, observe(model))
    kept = choose(groups, whole, **choice)
    names = {id(tensor): name for name, tensor in tensors.items()}
    followers = [
        {names[id(tensor)]: named_tensors(target)[key] for key, tensor in named_tensors(followed).items()}
        for _, followed, target in networks(policy).values()
        if target is not None
    ]

    def everything(transaction):
        changed, seen = [], set()
        for copied in [tensors, *followers]:
            own = {name: tensor for name, tensor in copied.items() if id(tensor) not in seen}  # targets may share some
            seen |= {id(tensor) for tensor in own.values()}
            changed += [own[name] for name in cut(transaction, graph, own, kept, algorithm_optimizers(model))]
        update_sizes(transaction, [policy], changed)
        rewrite_sizes(transaction, policy, describe(policy), model)

    if transaction is not None:
        everything(transaction)
    else:
        with Transaction() as own:
            everything(own)
    return kept
