"""What the values of a configuration may be, also such as an algorithm would take in silence, and learn nothing with."""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from rl_crop.evaluation.yaml_files import ConfigError

SHARES = frozenset({
    "gamma", "gae_lambda", "tau", "polyak", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps",
})  # fmt: skip
"""Hyperparameters in [0, 1]."""
COUNTS = {
    "n_steps": 1, "batch_size": 1, "n_epochs": 1, "buffer_size": 1, "learning_starts": 0, "policy_delay": 1,
    "target_update_interval": 1, "gradient_steps": -1, "stats_window_size": 1, "top_quantiles_to_drop_per_net": 0,
    "cg_max_steps": 1, "n_critic_updates": 1, "n_delta": 1,
}  # fmt: skip
"""Hyperparameters that are whole numbers, with the least they may be."""
POSITIVE = frozenset({"learning_rate", "clip_range", "clip_range_vf", "max_grad_norm", "target_kl", "noise_std", "delta_std"})
"""Hyperparameters above 0; some may be schedules."""
WITHOUT_BOUND = frozenset({"max_grad_norm", "clip_obs", "clip_reward", "env_kwargs", "env_wrapper"})
"""Keys under which a number may be infinite."""


def check_seed(where: str, seed: Any) -> None:
    """:raises ConfigError: it is no seed that every generator takes, those of later environments included"""
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise ConfigError(f"{where} {seed!r} must be a whole number of at least 0, and below 2**31")


def check_finite(data: Any, key: str = "") -> None:
    """:raises ConfigError: a number of a configuration is not finite, or a value holds itself"""
    try:
        if isinstance(data, Mapping):
            for name, value in data.items():
                if name not in WITHOUT_BOUND or (isinstance(value, float) and math.isnan(value)):
                    check_finite(value, f"{key}.{name}".strip("."))
        elif isinstance(data, (list, tuple)):
            for value in data:
                check_finite(value, key)
        elif _is_number(data) and not math.isfinite(data):
            raise ConfigError(f"`{key}: {data}` is no finite number")
    except RecursionError:
        raise ConfigError("A value holds itself, by an anchor of YAML: write it out") from None


def hyperparameter(key: str, value: Any) -> Any:
    """:return: the value of an algorithm's argument, a number where it is text that YAML could have read as one"""
    value = _number(value)
    if value is None or (key in POSITIVE and isinstance(value, str)):  # a schedule is looked at where it is built
        return value
    number = _is_number(value)
    if key in SHARES and not (number and 0 <= value <= 1):
        raise ConfigError(f"`{key}: {value}` must be a number in [0, 1]")
    if key in COUNTS and not (number and value >= COUNTS[key] and value % 1 == 0):
        raise ConfigError(f"`{key}: {value}` must be a whole number of at least {COUNTS[key]}")
    if key in POSITIVE and not (number and value > 0):
        raise ConfigError(f"`{key}: {value}` must be a number above 0")
    return value


def whole(key: str, value: Any) -> int:
    """:return: a whole number of at least 1"""
    number = _number(value)
    if not _is_number(number) or not number >= 1 or number % 1:
        raise ConfigError(f"`{key}` must be a whole number of at least 1, got {value!r}")
    return int(number)


def amount(key: str, value: Any) -> float:
    """:return: a number of at least 0"""
    number = _number(value)
    if not _is_number(number) or number < 0:
        raise ConfigError(f"`{key}` must be a number of at least 0, got {value!r}")
    return number


def must_be(kind: Any, what: str) -> Callable[[str, Any], Any]:
    """:return: a check that a value is of a kind, which hands it on"""

    def check(key: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise ConfigError(f"`{key}` must be {what}, got {value!r}")
        return dict(value) if isinstance(value, Mapping) else value

    return check


name = must_be(str, "a name")
mapping = must_be(Mapping, "a mapping")
flag = must_be(bool, "true or false")
normalization = must_be((bool, Mapping), "true, false or a mapping of arguments of VecNormalize")


def policy_arguments(key: str, value: Any) -> dict[str, Any]:
    """:return: the arguments of a policy, whose widths are looked at"""
    arguments = mapping(key, value)
    widths = arguments.get("net_arch", [])
    lists = list(widths.values()) if isinstance(widths, Mapping) else [widths]
    if not all(isinstance(each, list) and all(type(n) is int and n > 0 for n in each) for each in lists):
        raise ConfigError(f"`{key}.net_arch: {widths}` must be a list of whole numbers, or one for each of pi, vf and qf")
    return arguments


def wrappers(key: str, value: Any) -> list[dict[str, dict[str, Any]]]:
    """:return: arguments by the name of a class, each in a mapping of its own; as in RL Zoo one may stand without them"""
    found = []
    for entry in value if isinstance(value, (list, tuple)) else [value]:
        named = {entry: None} if isinstance(entry, str) else entry
        if not isinstance(named, Mapping) or len(named) != 1:
            raise ConfigError(f"`{key}`: expected the name of a class or `name: arguments`, got {entry!r}")
        found.append({str(name): {} if arguments is None else mapping(name, arguments) for name, arguments in named.items()})
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _number(value: Any) -> Any:
    # YAML reads 1e-3 (without a dot) as a string.
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
