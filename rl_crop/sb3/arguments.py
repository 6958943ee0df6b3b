"""Checks of a callback's arguments, before the first step of training."""

from collections.abc import Mapping, Sequence
from typing import Any

from rl_crop.core.errors import PruningError


def check_choices(choices: Mapping[str, tuple[Any, Sequence[str]]]) -> None:
    """
    :param choices: by argument, its value and the values it may have.
    :raises PruningError: one has another.
    """
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise PruningError(f"{name}={value!r} is not one of {list(allowed)}.")


def check_counts(counts: Mapping[str, Any]) -> None:
    """
    :param counts: arguments that are numbers of something.
    :raises PruningError: one is not an integer of at least 1.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise PruningError(f"{name}={value!r} must be an integer of at least 1.")
