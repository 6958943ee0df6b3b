"""What a run is: one YAML file a task, with the hyperparameter keys of RL Zoo, plus ``pruning:`` and ``evaluation:``."""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_crop.evaluation.algorithms import ALGORITHMS, algorithm_class
from rl_crop.evaluation.checks import (
    amount,
    check_finite,
    flag,
    hyperparameter,
    mapping,
    name,
    normalization,
    policy_arguments,
    whole,
    wrappers,
)
from rl_crop.evaluation.yaml_files import ConfigError, read_yaml

# Arguments of an algorithm that a run decides by itself, so that a configuration cannot.
_RESERVED = {"env", "policy", "policy_kwargs", "seed", "verbose", "tensorboard_log", "_init_setup_model"}


@dataclass(frozen=True)
class EvaluationConfig:
    """
    How a run is evaluated, always with deterministic actions and in environments of its own.

    :param n_evals: evaluations spread evenly over training
    :param n_episodes: episodes in each of them
    :param final_episodes: episodes of the final evaluation
    :param n_envs: environments that run side by side in an evaluation
    """

    n_evals: int = 20
    n_episodes: int = 10
    final_episodes: int = 100
    n_envs: int = 10


@dataclass(frozen=True)
class RunConfig:
    """
    One training run, without its seed.

    :param env: the environment's gymnasium id; those of ``rl_crop_envs`` and Atari games are registered where they are named
    :param algo: the algorithm's name in RL Zoo, for example ``"ppo"``
    :param n_timesteps: environment steps, summed over the environments
    :param n_envs: training environments
    :param policy: the policy's name in Stable-Baselines3; where observations are images, ``Mlp`` in it becomes ``Cnn``
    :param env_kwargs: keyword arguments of the environment
    :param env_wrapper: wrappers of each environment from the inside out, each a mapping from the dotted name of its class to
        its keyword arguments; a file may also name one alone, or without arguments
    :param atari: whether the environments are preprocessed by Stable-Baselines3's ``AtariWrapper``; by default Atari games are
    :param frame_stack: how many observations in a row the agent sees as one
    :param noise_dims: dimensions of pure noise that are added to every observation (``rl_crop_envs.NoiseDimensions``): their
        share of all dimensions, below 1, or their number
    :param normalize: ``True`` for ``VecNormalize`` with its defaults (and the algorithm's ``gamma``), or its keyword arguments
    :param policy_kwargs: keyword arguments of the policy; ``activation_fn`` is the name of a class of ``torch.nn``
    :param hyperparams: the other keyword arguments of the algorithm; ``"lin_0.001"`` is a schedule that falls to zero;
        ``noise_type`` (``"normal"`` or ``"ornstein-uhlenbeck"``) and ``noise_std`` describe the action noise
    :param pruning: keyword arguments of ``rl_crop.PruningCallback``; ``None`` trains densely
    :param evaluation: how the run is evaluated
    """

    env: str
    algo: str
    n_timesteps: int
    n_envs: int = 1
    policy: str = "MlpPolicy"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    env_wrapper: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    atari: bool | None = None
    frame_stack: int = 1
    noise_dims: float = 0.0
    normalize: bool | dict[str, Any] = False
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    hyperparams: dict[str, Any] = field(default_factory=dict)
    pruning: dict[str, Any] | None = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "RunConfig":
        """
        Check a configuration as it stands in a file.

        :param data: the keys of the file
        :return: the configuration
        :raises ConfigError: names the key that is missing, unknown or of the wrong kind
        """
        for key in ("env", "algo", "n_timesteps"):
            if data.get(key) is None:
                raise ConfigError(f"The key `{key}` is missing")
        algo = str(data["algo"]).lower()
        if algo not in ALGORITHMS:
            raise ConfigError(f"`algo: {data['algo']}` is not known, choose one of {', '.join(ALGORITHMS)}")
        arguments = set(inspect.signature(algorithm_class(algo).__init__).parameters) - {"self"} - _RESERVED
        if "action_noise" in arguments:  # an object, which a file describes
            arguments = arguments - {"action_noise"} | {"noise_type", "noise_std"}
        for key in data:
            if key not in {"algo", *_READ} | arguments:
                raise ConfigError(f"The key `{key}` is neither a key of a run nor an argument of {algo.upper()}")
        check_finite(data)
        own = {key: read(key, data[key]) for key, read in _READ.items() if data.get(key) is not None}
        hyperparams = {key: hyperparameter(key, data[key]) for key in sorted(arguments & {*data})}
        return RunConfig(algo=algo, hyperparams=hyperparams, **own)

    def to_dict(self) -> dict[str, Any]:
        """
        The configuration in the form of a file, every key spelled out.

        :return: a mapping that :meth:`from_dict` reads back
        """
        data = dataclasses.asdict(self)
        return data | data.pop("hyperparams")

    def canonical(self) -> dict[str, Any]:
        """
        The configuration without what equals its default, so that two spellings of one run are one run, and an option
        added to a later version leaves the runs of this one where they are.

        :return: a mapping that :meth:`from_dict` reads back
        """
        default = RunConfig(self.env, self.algo, self.n_timesteps).to_dict()
        data = {key: value for key, value in self.to_dict().items() if key not in default or value != default[key]}
        if "evaluation" in data:
            data["evaluation"] = {k: v for k, v in data["evaluation"].items() if v != default["evaluation"][k]}
        return data | {"env": self.env, "algo": self.algo, "n_timesteps": self.n_timesteps}

    def with_pruning(self, pruning: Mapping[str, Any] | None) -> "RunConfig":
        """:return: the same run with other arguments of ``rl_crop.PruningCallback``; ``None`` trains densely"""
        return dataclasses.replace(self, pruning=None if pruning is None else dict(pruning))

    def with_widths(self, widths: Mapping[str, list[int]] | list[int]) -> "RunConfig":
        """:return: the same run with networks of another ``net_arch``"""
        return dataclasses.replace(self, policy_kwargs=self.policy_kwargs | {"net_arch": widths})


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """
    Read a run's configuration.

    :param path: a YAML file
    :param overrides: keys that replace those of the file; mappings are merged key by key
    :return: the configuration
    :raises ConfigError: names the file and the key
    """
    try:
        return RunConfig.from_dict(merge(read_yaml(path), overrides or {}))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """:return: a new mapping, in which the second wins; where both hold a mapping under a key, these are merged too"""
    merged = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def short_hash(data: Any) -> str:
    """
    :return: eight hexadecimal digits that stand for a value of mappings, lists, numbers and strings, in any order of keys
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]


def _evaluation(key: str, value: Any) -> EvaluationConfig:
    data, known = mapping(key, value), [field.name for field in dataclasses.fields(EvaluationConfig)]
    for one in data:
        if one not in known:
            raise ConfigError(f"The key `{key}.{one}` is not known, choose from {', '.join(known)}")
    return EvaluationConfig(**{one: whole(f"{key}.{one}", number) for one, number in data.items()})


_READ: dict[str, Callable[[str, Any], Any]] = {
    "env": name, "n_timesteps": whole, "n_envs": whole, "policy": name, "env_kwargs": mapping, "env_wrapper": wrappers,
    "atari": flag, "frame_stack": whole, "noise_dims": amount, "normalize": normalization, "policy_kwargs": policy_arguments,
    "pruning": mapping, "evaluation": _evaluation,
}  # fmt: skip
"""What a key of a run may be. A key without a value has its default."""
