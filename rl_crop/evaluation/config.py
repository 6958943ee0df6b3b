"""What a run is: one YAML file a task, with the hyperparameter keys of RL Zoo, plus ``pruning:`` and ``evaluation:``."""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_crop.evaluation.algorithms import ALGORITHMS, algorithm_class
from rl_crop.evaluation.checks import wrong_hyperparameter, wrong_number, wrong_widths
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
        if not isinstance(data, Mapping):
            raise ConfigError(f"A configuration is a mapping from keys to values, got {type(data).__name__}")
        for key in ("env", "algo", "n_timesteps"):
            if data.get(key) is None:
                raise ConfigError(f"The key `{key}` is missing")
        algo = str(data["algo"]).lower()
        if algo not in ALGORITHMS:
            raise ConfigError(f"`algo: {data['algo']}` is not known, choose one of {', '.join(ALGORITHMS)}")
        own = {f.name for f in dataclasses.fields(RunConfig)} - {"hyperparams"}
        arguments = set(inspect.signature(algorithm_class(algo).__init__).parameters) - {"self"} - _RESERVED
        if "action_noise" in arguments:  # an object, which a file describes
            arguments = arguments - {"action_noise"} | {"noise_type", "noise_std"}
        for key in data:
            if key not in own | arguments:
                raise ConfigError(f"The key `{key}` is neither a key of a run nor an argument of {algo.upper()}")

        try:
            wrong = [wrong_number(data)]
        except RecursionError:
            raise ConfigError("A value holds itself, by an anchor of YAML: write it out") from None
        wrong += [*(wrong_hyperparameter(key, _number(data[key])) for key in data if key in arguments)]
        if "net_arch" in (_mapping(data, "policy_kwargs") or {}):
            wrong.append(wrong_widths(data["policy_kwargs"]["net_arch"]))
        if any(wrong):
            raise ConfigError(next(filter(None, wrong)))
        normalize = data.get("normalize") or False
        if not isinstance(normalize, (bool, Mapping)):
            raise ConfigError("`normalize` is true, false or a mapping of arguments of VecNormalize")
        atari, noise_dims = data.get("atari"), _number(data.get("noise_dims") or 0.0)
        if atari is not None and not isinstance(atari, bool):
            raise ConfigError(f"`atari` is true or false, got {atari!r}")
        if isinstance(noise_dims, bool) or not isinstance(noise_dims, (int, float)) or noise_dims < 0:
            raise ConfigError(f"`noise_dims` must be a number of at least 0, got {noise_dims!r}")
        return RunConfig(
            env=str(data["env"]),
            algo=algo,
            n_timesteps=_whole(data["n_timesteps"], "n_timesteps"),
            n_envs=_whole(data.get("n_envs", 1), "n_envs"),
            policy=str(data.get("policy", "MlpPolicy")),
            env_kwargs=_mapping(data, "env_kwargs") or {},
            env_wrapper=_wrappers(data.get("env_wrapper")),
            atari=atari,
            frame_stack=_whole(data.get("frame_stack") or 1, "frame_stack"),
            noise_dims=noise_dims,
            normalize=dict(normalize) if isinstance(normalize, Mapping) else normalize,
            policy_kwargs=_mapping(data, "policy_kwargs") or {},
            hyperparams={key: _number(data[key]) for key in sorted(set(data) & arguments)},
            pruning=_mapping(data, "pruning"),
            evaluation=_evaluation(_mapping(data, "evaluation") or {}),
        )

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
        """
        The same run with other pruning settings.

        :param pruning: keyword arguments of ``rl_crop.PruningCallback``; ``None`` trains densely
        :return: the new configuration
        """
        return dataclasses.replace(self, pruning=None if pruning is None else dict(pruning))

    def with_widths(self, widths: Mapping[str, list[int]] | list[int]) -> "RunConfig":
        """
        The same run with networks of other widths.

        :param widths: the ``net_arch``
        :return: the new configuration
        """
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
    """
    Merge two mappings; where both hold a mapping under a key, these are merged too.

    :param base: the mapping that gives way
    :param overrides: the mapping that wins
    :return: a new mapping
    """
    merged = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def short_hash(data: Any) -> str:
    """
    Eight hexadecimal digits that stand for a value made of mappings, lists, numbers and strings.

    :param data: the value; the order of keys does not matter
    :return: the first digits of its SHA-256
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]


def _evaluation(data: Mapping[str, Any]) -> EvaluationConfig:
    names = [f.name for f in dataclasses.fields(EvaluationConfig)]
    for key in data:
        if key not in names:
            raise ConfigError(f"The key `evaluation.{key}` is not known, choose from {', '.join(names)}")
    return EvaluationConfig(**{key: _whole(value, f"evaluation.{key}") for key, value in data.items()})


def _wrappers(value: Any) -> list[dict[str, dict[str, Any]]]:
    # As in RL Zoo: a name, a name with arguments, or a list of these.
    entries = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    wrappers = []
    for entry in entries:
        named = {entry: None} if isinstance(entry, str) else entry
        if not isinstance(named, Mapping) or len(named) != 1:
            raise ConfigError(f"`env_wrapper`: expected the name of a class or `name: arguments`, got {entry!r}")
        wrappers.append({str(name): _mapping(named, name) or {} for name in named})
    return wrappers


def _mapping(data: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    value = data.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"`{key}` must be a mapping, got {value!r}")
    return None if value is None else dict(value)


def _number(value: Any) -> Any:
    # YAML reads 1e-3 (without a dot) as a string.
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _whole(value: Any, key: str) -> int:
    number = _number(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not number >= 1 or number % 1:
        raise ConfigError(f"`{key}` must be a whole number of at least 1, got {value!r}")
    return int(number)
