"""Returns versus sparsity: runs, sweeps, statistics and pictures."""

from rl_crop.evaluation.agents import SavedAgent, episode_returns
from rl_crop.evaluation.config import ConfigError, EvaluationConfig, RunConfig, load_config
from rl_crop.evaluation.run import run
from rl_crop.evaluation.statistics import bootstrap_interval, interquartile_mean

__all__ = [
    "ConfigError",
    "EvaluationConfig",
    "RunConfig",
    "SavedAgent",
    "bootstrap_interval",
    "episode_returns",
    "interquartile_mean",
    "load_config",
    "run",
]
