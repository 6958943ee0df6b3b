"""Saved agents: find what belongs to them, load them, measure their return."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rl_crop.evaluation.building import build_env
from rl_crop.evaluation.config import ConfigError, RunConfig, load_config
from rl_crop.evaluation.zips import load_agent, load_statistics

MODEL, CONFIG, NORMALIZATION, REPORT = "model.zip", "config.yaml", "vecnormalize.pkl", "report.json"
EVALUATIONS, PICTURE = "evaluations.npz", "learning_curve.png"


@dataclass(frozen=True)
class SavedAgent:
    """
    A saved agent and what it needs.

    :param path: the zip of the model
    :param config_path: the configuration it was trained with
    :param config: its content
    :param normalization: the statistics of ``VecNormalize``, where the configuration asks for them
    """

    path: Path
    config_path: Path
    config: RunConfig
    normalization: Path | None

    @staticmethod
    def find(path: str | Path, config: str | Path | None = None) -> "SavedAgent":
        """
        Find an agent and what lies beside it: ``config.yaml`` and ``vecnormalize.pkl``, or, where the agent has its own,
        those that begin with its name (``small.config.yaml`` for ``small.zip``).

        :param path: a run directory, or a zip
        :param config: its configuration, where it does not lie beside the zip
        :return: where everything is
        :raises ConfigError: says which file is missing
        """
        path = Path(path)
        model = path / MODEL if path.is_dir() else path
        if not model.is_file():
            raise ConfigError(f"There is no saved agent at {model}")
        config_path = Path(config) if config else _beside(model, CONFIG)
        if not config_path.is_file():
            raise ConfigError(f"{config_path} is missing: name the configuration that {model} was trained with (--config)")
        run_config = load_config(config_path)
        normalization = _beside(model, NORMALIZATION) if run_config.normalize else None
        if normalization is not None and not normalization.is_file():
            raise ConfigError(f"{normalization} is missing: {model} was trained on normalised observations")
        return SavedAgent(model, config_path, run_config, normalization)

    def build_env(
        self,
        seed: int,
        n_envs: int | None = None,
        *,
        normalize_rewards: bool = False,
        watch: Callable[[VecEnv], VecEnv] = lambda env: env,
    ) -> VecEnv:
        """
        Build environments with the agent's normalisation, whose statistics stand still.

        :param seed: the first environment's seed
        :param n_envs: how many; the configuration's number by default
        :param normalize_rewards: scale rewards as in training, which losses need and returns must not have
        :param watch: what is wrapped around the environments, where observations are not normalised yet
        :return: the environments
        """
        env = build_env(self.config, seed, n_envs, training=False)
        if self.normalization is None:
            return watch(env)
        assert isinstance(env, VecNormalize)
        env = load_statistics(self.normalization, watch(env.venv))
        env.training = False
        env.norm_reward = env.norm_reward and normalize_rewards
        return env

    def load(self, env: VecEnv | None = None) -> BaseAlgorithm:
        """
        :return: the agent, attached to environments where some are given
        :raises PruningError: the zip is damaged, or does not fit its configuration
        """
        return load_agent(self.path, self.config.algo, env)


def own_file(model: Path, name: str) -> Path:
    """:return: the place of a file of one agent of several in a folder, such as ``small.config.yaml`` beside ``small.zip``"""
    return model.with_name(f"{model.stem}.{name}")


def _beside(model: Path, name: str) -> Path:
    own = own_file(model, name)
    return own if own.is_file() else model.with_name(name)


def episode_returns(model: BaseAlgorithm, env: VecEnv, n_episodes: int) -> tuple[list[float], list[int]]:
    """
    Run whole episodes with deterministic actions. Every environment plays its fixed share of them: taking the first to end
    would favour short episodes.

    :param model: the agent
    :param env: environments to play in, whose rewards are not normalised
    :param n_episodes: how many episodes
    :return: the undiscounted return and the length of each
    """
    returns, lengths = evaluate_policy(
        model, env, n_eval_episodes=n_episodes, deterministic=True, return_episode_rewards=True, warn=False
    )
    return [float(value) for value in returns], [int(value) for value in lengths]  # type: ignore[union-attr]
