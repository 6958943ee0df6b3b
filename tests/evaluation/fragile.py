"""Importing this registers ``Fragile-v0``, where some processes die. Workers find it as ``fragile:Fragile-v0``."""

import os
import signal
from pathlib import Path

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv


class Fragile(CartPoleEnv):
    """
    :param folder: where each process leaves a file
    :param deaths: how many processes are killed
    """

    def __init__(self, folder: str, deaths: int) -> None:
        super().__init__()
        earlier = len(list(Path(folder).glob("*")) if Path(folder).exists() else [])
        mark = Path(folder) / str(os.getpid())
        if not mark.exists():
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
            if earlier < deaths:
                os.kill(os.getpid(), signal.SIGKILL)


gym.register("Fragile-v0", Fragile, max_episode_steps=50)
