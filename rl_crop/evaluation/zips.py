"""Any saved agent of Stable-Baselines3: which algorithm it is of, and what lies beside it."""

import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rl_crop.core.errors import PruningError
from rl_crop.evaluation.algorithms import ALGORITHMS, algorithm_class

BY_POLICY = {
    "sac": "sac", "td3": "td3", "dqn": "dqn", "tqc": "tqc", "qrdqn": "qrdqn", "crossq": "crossq", "ars": "ars",
    "maskable": "ppo_mask", "recurrent": "ppo_lstm",
}  # fmt: skip
"""Algorithm by a word in the module of the policy's class."""
BY_KEY = {"cg_max_steps": "trpo", "clip_range": "ppo", "vf_coef": "a2c"}
"""Of those with the common actor-critic policy, by what they save; the first that is there counts."""


def find_zip(path: str | Path) -> Path:
    """
    :param path: a zip, a run directory, or a directory of RL Zoo's logs.
    :return: the zip.
    :raises PruningError: there is none, or several of which none is the model.
    """
    path = Path(path)
    if not path.exists():
        raise PruningError(f"There is nothing at {path}.")
    if path.is_file():
        if not zipfile.is_zipfile(path):
            raise PruningError(f"{path} is no zip of Stable-Baselines3, or is damaged.")
        return path
    usual = [path / name for name in ("model.zip", f"{path.name.rpartition('_')[0]}.zip", "best_model.zip")]
    found = [zip_file for zip_file in usual if zip_file.is_file()] or sorted(path.glob("*.zip"))
    if not found:
        raise PruningError(f"There is no saved agent in {path}.")
    if len(found) > 1 and found[0] not in usual:
        raise PruningError(f"{path} holds {len(found)} zips: name one of them.")
    return find_zip(found[0])


def algorithm_of(path: Path) -> str:
    """
    :return: the name of the algorithm of a zip.
    :raises PruningError: the zip holds no agent, or it is not clear of which algorithm.
    """
    try:
        data: Any = load_from_zip_file(path, device="cpu", load_data=True)[0]
    except Exception as error:
        raise PruningError(f"{path} cannot be read as a saved agent ({type(error).__name__}: {error}).") from error
    if not isinstance(data, dict) or "policy_class" not in data:
        raise PruningError(f"{path} holds no agent of Stable-Baselines3.")
    module = getattr(data["policy_class"], "__module__", "")
    for word, name in BY_POLICY.items():
        if f".{word}." in f".{module}.":
            return "ddpg" if name == "td3" and data.get("policy_delay") == 1 else name
    found = [name for key, name in BY_KEY.items() if key in data]
    if not found:
        raise PruningError(f"{path} does not say of which algorithm it is: name it with --algo.")
    return found[0]


def load_agent(path: Path, algo: str | None, env: VecEnv | None) -> BaseAlgorithm:
    """
    :param path: the zip.
    :param algo: its algorithm; found in the zip where it is ``None``.
    :param env: environments to attach.
    :return: the agent, on the CPU.
    :raises PruningError: it cannot be loaded.
    """
    name = (algo or algorithm_of(path)).lower()
    if name not in ALGORITHMS:
        raise PruningError(f"--algo {algo} is not known: choose one of {', '.join(ALGORITHMS)}.")
    try:
        model = algorithm_class(name).load(path, env=env, device="cpu")
    except Exception as error:
        raise PruningError(f"{path} does not load as {name} ({type(error).__name__}: {error}).") from error
    if algo is not None:
        refuse_other_algorithm(path, name)
    if not all(bool(tensor.isfinite().all()) for tensor in model.policy.state_dict().values() if tensor.is_floating_point()):
        raise PruningError(f"{path} is damaged, or of a training that diverged: its networks hold NaN or infinity.")
    return model


def refuse_other_algorithm(path: Path, name: str) -> None:
    """:raises PruningError: a zip says that it is of another algorithm, which shares policies and so would load."""
    try:
        found = algorithm_of(path)
    except PruningError:
        return
    if found != name and {found, name} != {"td3", "ddpg"}:
        raise PruningError(f"{path} is of {found}, not of --algo {name}: leave --algo out.")


def save_slim(model: BaseAlgorithm, path: str | Path) -> None:
    """
    Save an agent without what only training needs: the state of its optimizers, two thirds of what Adam's agents weigh. The
    zip loads as ever, also in plain Stable-Baselines3; an agent that trains on from it begins with fresh optimizers.

    :param model: the agent, which stays as it is.
    :param path: the zip to write.
    """
    found = [recursive_getattr(model, name) for name in model._get_torch_save_params()[0]]
    states = [(item, item.state) for item in found if isinstance(item, th.optim.Optimizer)]
    try:
        for optimizer, _ in states:
            optimizer.state = defaultdict(dict)
        model.save(path)
    finally:
        for optimizer, state in states:
            optimizer.state = state


def make_env(env_id: str, vecnormalize: Path | None, n_envs: int, seed: int) -> VecEnv:
    """
    :param env_id: of gymnasium.
    :param vecnormalize: statistics of ``VecNormalize``, which then stand still; rewards are not normalised.
    :param n_envs: how many environments.
    :param seed: the first one's.
    :return: environments to play in.
    :raises PruningError: there is no such environment, or no such file.
    """
    try:
        env = make_vec_env(env_id, n_envs=n_envs, seed=seed)
    except Exception as error:
        raise PruningError(f"The environment {env_id!r} cannot be made ({error}).") from error
    if vecnormalize is None:
        return env
    if not vecnormalize.is_file():
        raise PruningError(f"There are no statistics at {vecnormalize}.")
    normalized = load_statistics(vecnormalize, env)
    normalized.training = normalized.norm_reward = False
    return normalized


def load_statistics(path: Path, env: VecEnv) -> VecNormalize:
    """
    :param path: a file that ``VecNormalize`` has saved
    :param env: environments, whose observations it normalises
    :return: the environments, normalised
    :raises PruningError: it is damaged, or of other observations
    """
    try:
        normalized = VecNormalize.load(str(path), env)
        measured = normalized.obs_rms if normalized.norm_obs else {}
        statistics = measured if isinstance(measured, dict) else {"": measured}
        shapes = {name: tuple(of.mean.shape) for name, of in statistics.items()}
    except Exception as error:
        raise PruningError(f"{path} holds no statistics of VecNormalize for this environment ({_short(error)}).") from error
    space = env.observation_space
    for name, shape in shapes.items():
        part = space.spaces.get(name) if isinstance(space, spaces.Dict) else space
        if part is None or part.shape != shape:
            raise PruningError(f"{path} is of other observations than the environment's: of shape {shape}.")
    return normalized


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def statistics_beside(path: Path) -> Path | None:
    """:return: the file of ``VecNormalize`` that belongs to a zip, where our runs and RL Zoo's put it."""
    places = [
        path.with_name(f"{path.stem}.vecnormalize.pkl"),
        path.with_name("vecnormalize.pkl"),
        *path.parent.glob("*/vecnormalize.pkl"),
    ]
    return next((place for place in places if place.is_file()), None)
