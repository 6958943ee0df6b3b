"""The algorithms that a configuration can name, as RL Zoo names them."""

import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm

from rl_crop.optional import require

STABLE_BASELINES3 = {"a2c": "A2C", "ddpg": "DDPG", "dqn": "DQN", "ppo": "PPO", "sac": "SAC", "td3": "TD3"}
SB3_CONTRIB = {
    "ars": "ARS", "crossq": "CrossQ", "ppo_lstm": "RecurrentPPO", "ppo_mask": "MaskablePPO", "qrdqn": "QRDQN", "tqc": "TQC",
    "trpo": "TRPO",
}  # fmt: skip
ALGORITHMS = tuple(sorted(STABLE_BASELINES3 | SB3_CONTRIB))


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """
    :param name: one of :data:`ALGORITHMS`
    :return: the class
    :raises ImportError: it is one of sb3-contrib, which is not installed
    """
    if name in STABLE_BASELINES3:
        return getattr(stable_baselines3, STABLE_BASELINES3[name])
    return getattr(require("sb3_contrib", "contrib"), SB3_CONTRIB[name])
