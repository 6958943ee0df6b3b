"""What a configuration's numbers may be: what an algorithm would take in silence, and learn nothing with."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

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


def wrong_number(data: Any, key: str = "") -> str | None:
    """
    :param data: a configuration, or a part of it
    :param key: where it stands
    :return: what is wrong with the first number that is not finite
    """
    if isinstance(data, Mapping):
        parts = [(f"{key}.{name}".strip("."), value) for name, value in data.items() if name not in WITHOUT_BOUND]
        parts += [
            (f"{key}.{name}".strip("."), value) for name, value in data.items() if name in WITHOUT_BOUND and _is_nan(value)
        ]
        return next((found for name, value in parts if (found := wrong_number(value, name))), None)
    if isinstance(data, (list, tuple)):
        return next((found for value in data if (found := wrong_number(value, key))), None)
    number = isinstance(data, Real) and not isinstance(data, bool) and not math.isfinite(data)
    return f"`{key}: {data}` is no finite number" if number else None


def wrong_hyperparameter(name: str, value: Any) -> str | None:
    """
    :param name: of a hyperparameter
    :param value: its value
    :return: what is wrong with it
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if value is None or (name in POSITIVE and isinstance(value, str)):  # a schedule is looked at where it is built
        return None
    if name in SHARES and not (number and 0 <= value <= 1):
        return f"`{name}: {value}` must be a number in [0, 1]"
    if name in COUNTS and not (number and value >= COUNTS[name] and value % 1 == 0):
        return f"`{name}: {value}` must be a whole number of at least {COUNTS[name]}"
    if name in POSITIVE and not (number and value > 0):
        return f"`{name}: {value}` must be a number above 0"
    return None


def wrong_widths(widths: Any) -> str | None:
    """
    :param widths: a ``net_arch``
    :return: what is wrong with it
    """
    lists = list(widths.values()) if isinstance(widths, Mapping) else [widths]
    whole = all(
        isinstance(n, int) and not isinstance(n, bool) and n > 0 for each in lists if isinstance(each, list) for n in each
    )
    if whole and all(isinstance(each, list) for each in lists):
        return None
    return f"`policy_kwargs.net_arch: {widths}` must be a list of whole numbers, or one for each of pi, vf and qf"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
