"""Agents that are trained for a part of their run, once: experiments on cuts begin with them."""

from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from rl_crop.evaluation.algorithms import algorithm_class
from rl_crop.evaluation.building import build_model
from rl_crop.evaluation.config import RunConfig
from rl_crop.files import write_atomically


def partly_trained(config: RunConfig, env: VecEnv, name: str, seed: int, share: float, folder: Path) -> tuple[Any, Path]:
    """
    An agent that is trained densely for a part of its run; it is kept, and loaded where it exists.

    :param config: the run
    :param env: its environments
    :param name: the task's name, for the file
    :param seed: the agent's
    :param share: of the run
    :param folder: where agents are kept
    :return: the agent with its environment (and replay buffer), and its zip
    """
    saved = folder / f"{name}_seed{seed}_{share:g}.zip"
    buffer = saved.with_suffix(".buffer.pkl")
    if saved.exists():
        model: Any = algorithm_class(config.algo).load(saved, env=env, device="cpu")
        if hasattr(model, "replay_buffer"):
            model.load_replay_buffer(buffer)
        return model, saved
    model = build_model(config, env, seed)
    model.learn(int(share * config.n_timesteps), progress_bar=True)
    if hasattr(model, "replay_buffer"):
        write_atomically(buffer, lambda target: model.save_replay_buffer(target))
    write_atomically(saved, lambda target: model.save(target))
    return model, saved
