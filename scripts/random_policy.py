"""Measure the return of a random policy on every environment of a study. What has been measured stays.

Example::

    python scripts/random_policy.py runs/returns
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from command_line import tyro
from rl_crop.evaluation import ConfigError, RunConfig
from rl_crop.evaluation.building import build_env
from rl_crop.evaluation.command import command
from rl_crop.evaluation.config import short_hash
from rl_crop.evaluation.store import Store
from rl_crop.files import read_json, write_json


@dataclass(frozen=True)
class Args:
    results: tyro.conf.Positional[Path]
    """The folder of the results, as `scripts/sweep.py` writes it, or the file into which it merged them."""
    seeds: int = 10
    """Seeds 0, 1, … of the random policy."""
    episodes: int = 20
    """Episodes of each seed."""
    out: Path = Path("runs/random_policy")
    """The folder of the measurements, one file an environment."""


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


def main(args: Args) -> None:
    """
    Measure what is missing.

    :param args: the arguments
    """
    if args.seeds < 1 or args.episodes < 1:
        raise ConfigError("--seeds and --episodes must be 1 or more")
    if not Store.at(args.results).folder.is_dir() and not Store.at(args.results).merged.is_file():
        raise ConfigError(f"There are no results at {args.results}: run scripts/sweep.py first")
    configs: dict[Path, RunConfig] = {}
    for result in Store.at(args.results).recorded().results.values():
        config = RunConfig.from_dict(result["config"])
        configs.setdefault(random_policy_path(args.out, config.env, config.env_kwargs), config)
    if not configs:
        raise ConfigError(f"No results in {args.results}: run scripts/sweep.py first")
    for path, config in configs.items():
        if not path.exists():
            means = [measure_random_policy(config, seed, args.episodes) for seed in range(args.seeds)]
            settings = {"env": config.env, "env_kwargs": config.env_kwargs, "episodes_a_seed": args.episodes}
            write_json(path, settings | {"mean_returns": means})
        means = read_json(path)["mean_returns"]
        print(f"{config.env}: mean of {len(means)} seeds {sum(means) / len(means):.2f}  ({path})")


if __name__ == "__main__":
    sys.exit(command(main, Args, __doc__ or ""))
