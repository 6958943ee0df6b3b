"""The return of a random policy: the zero of normalised scores. Measured once an environment and kept in a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rl_crop.evaluation.config import RunConfig, short_hash
from rl_crop.files import read_json


def random_policy_path(folder: str | Path, env: str, env_kwargs: Mapping[str, Any]) -> Path:
    """
    Where the returns of a random policy are.

    :param folder: the folder of all of them
    :param env: the environment's id
    :param env_kwargs: its keyword arguments
    :return: a JSON file, named by what it depends on
    """
    suffix = f"__{short_hash(dict(env_kwargs))}" if env_kwargs else ""
    return Path(folder) / f"{env.replace('/', '_')}{suffix}.json"


def read_random_returns(folder: str | Path, env: str, env_kwargs: Mapping[str, Any]) -> list[float] | None:
    """
    The returns of a random policy, if they have been measured.

    :param folder: where ``scripts/random_policy.py`` wrote them
    :param env: the environment's id
    :param env_kwargs: its keyword arguments
    :return: the mean return of each seed, or ``None``
    """
    path = random_policy_path(folder, env, env_kwargs)
    return read_json(path)["mean_returns"] if path.exists() else None


def measure_random_policy(config: RunConfig, seed: int, n_episodes: int) -> float:
    """
    Play uniformly random actions.

    :param config: the run whose environment is played, without normalisation of rewards
    :param seed: seeds the environment and the actions
    :param n_episodes: episodes to play
    :return: the mean return of the episodes
    """
    from rl_crop.evaluation.building import build_env

    env = build_env(config, seed, 1, training=False)
    env.action_space.seed(seed)
    env.reset()
    returns: list[float] = []
    while len(returns) < n_episodes:
        infos = env.step(np.array([env.action_space.sample()]))[3]
        # The monitor sums rewards before any wrapper that clips or scales them.
        returns += [info["episode"]["r"] for info in infos if "episode" in info]
    env.close()
    return float(np.mean(returns))
