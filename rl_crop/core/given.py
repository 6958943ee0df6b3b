"""What users hand over besides numbers: checked for its kind, so that an error names the argument and what it should be."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError, explained
from rl_crop.core.rng import isolated_rng

T = TypeVar("T")


def listed_batches(batches: Any) -> list[Any]:
    """
    :param batches: an iterable of batches, or ``None``.
    :return: a list of them; global generators, from which a ``DataLoader`` draws when it is walked, are as before.
    :raises PruningError: it is one batch, no iterable, or fails when it is walked.
    """
    single = isinstance(batches, (th.Tensor, np.ndarray, str, bytes, Mapping)) or hasattr(batches, "observations")
    if batches is not None and (single or not isinstance(batches, Iterable)):
        raise PruningError(f"batches is {described(batches)}: it must be a list of batches. Give [batch] where there is one.")
    with isolated_rng(), explained("batches could not be walked through", "nothing was changed"):
        return [] if batches is None else list(batches)


def listed(name: str, values: Any, kind: type[T], what: str) -> list[T]:
    """
    :param name: of an argument, for errors.
    :param values: one of a kind, several, or ``None``.
    :param kind: their class.
    :param what: they should be.
    :return: a list of them.
    :raises PruningError: one is something else.
    """
    if values is None or isinstance(values, kind):
        return [] if values is None else [values]
    if isinstance(values, (str, bytes, th.nn.Module)) or not isinstance(values, Iterable):
        raise PruningError(f"{name} is {described(values)}: it must be a list of {what}.")
    found = list(values)
    for number, value in enumerate(found):
        if not isinstance(value, kind):
            raise PruningError(f"{name}[{number}] is {described(value)}: {name} must be a list of {what}.")
    return found


def check_callable(name: str, value: Any, what: str) -> None:
    """:raises PruningError: an argument is given, and cannot be called."""
    if value is not None and not callable(value):
        raise PruningError(f"{name} is {described(value)}: it must be {what}.")


def check_finite(name: str, tensors: Sequence[Any]) -> None:
    """:raises PruningError: a tensor of floating-point numbers holds NaN or infinity."""
    for tensor in tensors:
        if isinstance(tensor, th.Tensor) and tensor.is_floating_point() and not bool(th.isfinite(tensor).all()):
            raise PruningError(f"{name} hold NaN or infinity: leave out such rows, or look for what makes them.")


def described(value: Any) -> str:
    """:return: what a value is, for an error."""
    if isinstance(value, (th.Tensor, np.ndarray)):
        return f"{'a tensor' if isinstance(value, th.Tensor) else 'an array'} of shape {tuple(value.shape)}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    return f"of type {type(value).__name__}"
