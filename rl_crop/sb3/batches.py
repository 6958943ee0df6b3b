"""A scoring batch: fields as attributes, whatever form it was given in."""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from rl_crop.core.errors import PruningError, explained
from rl_crop.core.given import check_finite, described
from rl_crop.core.importance.context import GRADIENT_FREE


class Samples(SimpleNamespace):
    """Fields as attributes, as SB3's samples have them, and as items, for a loss that was written for a mapping."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


class Prepared(Samples):
    """Samples whose observations carry more than the policy's space says (states before them): they have been checked."""


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


ROWS = (
    "actions", "rewards", "dones", "next_observations", "old_values", "old_log_prob", "advantages", "returns",
    "episode_starts",
)  # fmt: skip
"""Fields with one row a transition."""


def checked_samples(batches: Iterable[Any], policy: Any) -> list[Any]:
    """
    :param batches: a user's, or of an agent's own data.
    :param policy: whose observations they hold.
    :return: the batches with attribute access.
    :raises PruningError: names what a batch lacks, or what does not fit the policy.
    """
    found = []
    for number, batch in enumerate(batches):
        if isinstance(batch, Prepared):
            found.append(batch)
            continue
        name = f"batches[{number}]"
        with explained(f"{name} cannot be used", "it must hold numbers"):
            samples = as_samples(batch, policy.device)
        n_rows = _check_observations(f"{name}.observations", samples.observations, policy.observation_space)
        for field in ROWS:
            value = getattr(samples, field, None)
            if isinstance(value, Mapping):
                _check_observations(f"{name}.{field}", value, policy.observation_space)
            elif isinstance(value, th.Tensor):
                if value.dim() == 0 or len(value) != n_rows:
                    raise PruningError(
                        f"{name}.{field} is {described(value)}, and there are {n_rows} observations: one row each."
                    )
                check_finite(f"{name}.{field}", [value])
        found.append(samples)
    return found


def _check_observations(name: str, values: Any, space: spaces.Space) -> int:
    """:return: how many there are."""
    if isinstance(space, spaces.Dict):
        missing = sorted(set(space.spaces) - set(values)) if isinstance(values, Mapping) else sorted(space.spaces)
        if missing:
            raise PruningError(f"{name} lack {missing}: this policy observes a mapping with the keys {sorted(space.spaces)}.")
        counts = {_check_observations(f"{name}[{key!r}]", values[key], part) for key, part in space.spaces.items()}
        if len(counts) > 1:
            raise PruningError(f"{name} have {sorted(counts)} rows under their keys: it must be as many under each.")
        return counts.pop()
    if not isinstance(values, th.Tensor):
        given = f"a mapping with the keys {sorted(values)}" if isinstance(values, Mapping) else described(values)
        raise PruningError(
            f"{name} is {given}, but this policy observes {space}: give samples, a mapping with 'observations', or a tensor."
        )
    shape = () if isinstance(space, spaces.Discrete) else tuple(space.shape or ())
    fits = values.dim() > 0 and (isinstance(space, spaces.Discrete) or tuple(values.shape[1:]) == shape)
    if not fits:
        raise PruningError(
            f"{name} is {described(values)}: it must have one row an observation, of shape {shape}, as the policy sees them "
            f"(normalised, images with channels first)."
        )
    if not len(values):
        raise PruningError(f"{name} hold no rows: give at least one observation to score on.")
    check_finite(name, [values])
    return len(values)


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
