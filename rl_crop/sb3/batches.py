"""A scoring batch: fields as attributes, whatever form it was given in."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.importance.context import GRADIENT_FREE


class Samples(SimpleNamespace):
    """Fields as attributes, as SB3's samples have them, and as items, for a loss that was written for a mapping."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


def as_samples(batch: Any, device: th.device) -> Any:
    """
    A user's batch with attribute access.

    :param batch: samples of an SB3 buffer, a mapping with their field names, or observations alone (a tensor or an array).
    :param device: arrays become tensors there, and tensors go there.
    :return: an object with ``observations`` and whatever else the batch holds.
    :raises PruningError: it is none of these.
    """

    def tensors(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: tensors(item) for key, item in value.items()}
        if hasattr(value, "_fields"):  # samples are named tuples, recurrent states in them too
            return type(value)(*(tensors(item) for item in value))
        if isinstance(value, tuple):
            return tuple(tensors(item) for item in value)
        return None if value is None else th.as_tensor(value, device=device)

    if isinstance(batch, Mapping) and "observations" in batch:
        return Samples(**tensors(batch))
    if hasattr(batch, "observations"):
        return tensors(batch) if hasattr(batch, "_fields") else batch
    if isinstance(batch, (th.Tensor, np.ndarray, Mapping)):
        return Samples(observations=tensors(batch))
    raise PruningError("A batch must be samples of a rollout or replay buffer, a mapping with their fields, or observations.")


def needs(batch: Any, *fields: str) -> None:
    """:raises PruningError: a batch lacks one of the fields that an objective reads."""
    missing = [name for name in fields if getattr(batch, name, None) is None]
    if missing:
        raise PruningError(
            f"The batches hold no {', '.join(missing)}, which this objective needs. With observations alone use one of the "
            f"criteria {', '.join(map(repr, GRADIENT_FREE))}, or give loss=."
        )


def discounts(batch: Any, gamma: float) -> Any:
    """:return: the factor of the next value: of shape (n, 1) where an n-step buffer gives one each, else ``gamma``."""
    given = getattr(batch, "discounts", None)
    return gamma if given is None else given.reshape(-1, 1)


def td_target(batch: Any, next_values: th.Tensor, gamma: float) -> th.Tensor:
    """:return: reward plus discounted next value(s), shape (n, k) for next values of that shape."""
    alive = 1 - batch.dones.reshape(-1, 1).to(next_values.dtype)
    return batch.rewards.reshape(-1, 1) + alive * discounts(batch, gamma) * next_values
