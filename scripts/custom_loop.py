"""
PPO in a training loop of one's own: a Stable-Baselines3 policy, but rollouts, losses and optimizer are written here. Early in
training the policy is pruned, and the loop goes on. About a minute on one core; docs/custom_loops.md explains it.

Examples::

    python scripts/custom_loop.py
    python scripts/custom_loop.py --sparsity 0.95 --prune-at 0.5 --seed 1
"""

import copy
import os
import sys
from collections import deque
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch as th
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import polyak_update, set_random_seed
from stable_baselines3.common.vec_env import VecEnv

import rl_crop
from rl_crop.core.importance.criteria import resolve_criterion
from rl_crop.evaluation.command import command


@dataclass(frozen=True)
class Args:
    env: str = "CartPole-v1"
    """A gymnasium environment with observations in a `Box` and discrete actions."""
    sparsity: float = 0.9
    """Share of the prunable parameters of the actor and of the critic to cut."""
    criterion: str = "span_crop"
    """How units are scored: crop, span_crop, span, magnitude, random, …"""
    prune_at: float = 0.3
    """When to cut, as a share of training."""
    seed: int = 0
    """Seeds the policy, the environments and the choice of actions."""
    n_timesteps: int = 100_000
    """Environment steps, over all environments."""
    width: int = 256
    """Neurons in each of the two hidden layers of actor and critic, before the cut."""
    n_envs: int = 8
    """Environments that are stepped together."""
    n_steps: int = 32
    """Steps of every environment in a rollout."""
    n_epochs: int = 20
    """Gradient steps on a rollout."""
    learning_rate: float = 1e-3
    """Of Adam; falls to 0 over training."""
    clip_range: float = 0.2
    """Of the probability ratio; falls to 0 over training."""
    gamma: float = 0.98
    """Discount factor."""
    gae_lambda: float = 0.8
    """Decay of generalised advantage estimation."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    n_episodes: int = 20
    """Deterministic episodes at the end."""


@th.no_grad()
def collect(
    policy: ActorCriticPolicy, envs: VecEnv, observations: Any, args: Args
) -> tuple[dict[str, th.Tensor], Any, list[float]]:
    """
    A rollout with generalised advantage estimates.

    :param policy: acts.
    :param envs: stepped ``n_steps`` times.
    :param observations: the latest of every environment.
    :param args: sizes and discounts.
    :return: the rollout, one row a transition; the latest observations; returns of the episodes that ended.
    """
    steps: list[dict[str, th.Tensor]] = []
    episodes: list[float] = []
    for _ in range(args.n_steps):
        seen = th.as_tensor(observations)
        actions, values, log_probs = policy(seen)
        observations, rewards, dones, infos = envs.step(actions.numpy())
        for index, info in enumerate(infos):
            if info.get("TimeLimit.truncated"):  # the episode could have gone on: what would have followed counts
                rewards[index] += args.gamma * policy.predict_values(th.as_tensor(info["terminal_observation"])[None]).item()
            if "episode" in info:
                episodes.append(info["episode"]["r"])
        steps.append({
            "observations": seen, "actions": actions, "values": values.flatten(), "log_probs": log_probs,
            "rewards": th.as_tensor(rewards), "going_on": th.as_tensor(~dones).float(),
        })  # fmt: skip

    advantages = th.zeros(args.n_envs)
    next_values = policy.predict_values(th.as_tensor(observations)).flatten()
    for step in reversed(steps):
        errors = step["rewards"] + args.gamma * step["going_on"] * next_values - step["values"]
        advantages = errors + args.gamma * args.gae_lambda * step["going_on"] * advantages
        step |= {"advantages": advantages, "returns": advantages + step["values"]}
        next_values = step["values"]
    return {name: th.cat([step[name] for step in steps]) for name in steps[0]}, observations, episodes


def ppo_loss(policy: ActorCriticPolicy, rollout: dict[str, th.Tensor], clip_range: float, ent_coef: float) -> th.Tensor:
    """
    The clipped objective of PPO with value loss and entropy bonus.

    :param policy: the policy that learns.
    :param rollout: what :func:`collect` returns.
    :param clip_range: how far the probability ratio may go from 1.
    :param ent_coef: weight of the entropy bonus.
    """
    values, log_probs, entropy = policy.evaluate_actions(rollout["observations"], rollout["actions"])
    assert entropy is not None
    ratio = th.exp(log_probs - rollout["log_probs"])
    advantages = (rollout["advantages"] - rollout["advantages"].mean()) / (rollout["advantages"].std() + 1e-8)
    gains = th.min(advantages * ratio, advantages * ratio.clamp(1 - clip_range, 1 + clip_range))
    return -gains.mean() + 0.5 * F.mse_loss(values.flatten(), rollout["returns"]) - ent_coef * entropy.mean()


def check(args: Args) -> None:
    """
    :param args: the arguments.
    :raises PruningError: names what is wrong; what pruning itself takes is looked at when it begins.
    """
    for name in ("n_timesteps", "width", "n_envs", "n_steps", "n_epochs", "n_episodes"):
        if getattr(args, name) < 1:
            raise rl_crop.PruningError(f"{name}={getattr(args, name)} must be 1 or more.")
    for name in ("sparsity", "prune_at"):
        if not 0 <= getattr(args, name) < 1:
            raise rl_crop.PruningError(f"{name}={getattr(args, name)} must be in [0, 1).")
    for name in ("gamma", "gae_lambda"):
        if not 0 <= getattr(args, name) <= 1:
            raise rl_crop.PruningError(f"{name}={getattr(args, name)} must be in [0, 1].")
    for name in ("learning_rate", "clip_range"):
        if not 0 < getattr(args, name) < np.inf:
            raise rl_crop.PruningError(f"{name}={getattr(args, name)} must be above 0.")
    if not 0 <= args.seed < 2**31 or not 0 <= args.ent_coef < np.inf:
        raise rl_crop.PruningError("seed must be at least 0 and below 2**31, and ent_coef at least 0.")
    if args.n_timesteps < args.n_envs * args.n_steps:
        raise rl_crop.PruningError(f"n_timesteps={args.n_timesteps} is less than one rollout, n_envs times n_steps.")
    resolve_criterion(args.criterion)


def main(args: Args) -> dict[str, Any]:
    """
    Train, prune on the way, evaluate.

    :param args: the arguments.
    :return: the policy, its running average, and the mean return of each.
    """
    check(args)
    set_random_seed(args.seed)
    envs = make_vec_env(args.env, n_envs=args.n_envs, seed=args.seed)
    if not (isinstance(envs.observation_space, spaces.Box) and isinstance(envs.action_space, spaces.Discrete)):
        raise rl_crop.PruningError(f"{args.env} has not observations in a Box and discrete actions, which this loop is for.")
    width = [args.width, args.width]
    policy = ActorCriticPolicy(
        envs.observation_space, envs.action_space, lambda _: args.learning_rate, net_arch={"pi": width, "vf": width}
    )
    average = copy.deepcopy(policy)
    optimizer = th.optim.Adam(policy.parameters(), lr=args.learning_rate, eps=1e-5)

    observations: Any = envs.reset()
    recent: deque[dict[str, th.Tensor]] = deque(maxlen=8)
    returns: deque[float] = deque(maxlen=50)
    n_updates = args.n_timesteps // (args.n_envs * args.n_steps)
    cut_after = int(args.prune_at * n_updates)

    for update in range(n_updates):
        rollout, observations, episodes = collect(policy, envs, observations, args)
        recent.append(rollout)
        returns.extend(episodes)
        remaining = 1 - update / n_updates
        optimizer.param_groups[0]["lr"] = args.learning_rate * remaining
        for _ in range(args.n_epochs):
            loss = ppo_loss(policy, rollout, args.clip_range * remaining, args.ent_coef)
            optimizer.zero_grad()
            loss.backward()
            th.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            optimizer.step()
        polyak_update(policy.parameters(), average.parameters(), 0.1)

        if update == cut_after:
            report = rl_crop.prune_policy(
                policy,
                sparsity=args.sparsity,
                criterion=args.criterion,
                batches=list(recent),
                optimizers=[optimizer],
                mirrors=[average],
                gamma=args.gamma,
                ent_coef=args.ent_coef,
            )
            print(report)
        if update % 50 == 0 or update == n_updates - 1:
            steps = (update + 1) * args.n_envs * args.n_steps
            print(f"{steps:>7,} steps: return of the latest episodes {np.mean(returns or [np.nan]):.1f}")

    found: dict[str, Any] = {"policy": policy, "average": average}
    for name in ("policy", "average"):
        found[f"{name}_return"], _ = evaluate_policy(found[name], envs, args.n_episodes)
        print(f"Return of the {name} over {args.n_episodes} deterministic episodes: {found[f'{name}_return']:.1f}")
    return found


if __name__ == "__main__":
    sys.exit(command(main, Args, __doc__ or ""))
