"""What a callback has seen before its cut: it travels in the agent's own zip, so that a resumed run goes on from there."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.tracer import tensors_in
from rl_crop.core.model import mapped
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.sb3.batches import Samples
from rl_crop.sb3.data import RolloutMemory
from rl_crop.sb3.timing import Timetable

LARGEST = 16 * 2**20
"""Bytes of scoring data that a checkpoint carries at most."""


class WatchState:
    """
    One callback's entry in ``model.pruning_state``: a plain dictionary of numbers, strings, lists and tensors on the CPU.

    Stable-Baselines3 saves the attribute with the others, and loads it where this package is not installed. It is there
    from the start of training until the last event, and is removed then.

    :param model: the agent.
    :param networks: what the callback prunes; the entry stands under these names.
    :param about: the arguments on which the state depends.
    """

    def __init__(self, model: BaseAlgorithm, networks: frozenset[str], about: Mapping[str, Any]) -> None:
        self.model, self.networks, self.about = model, networks, dict(about)
        self.key = ",".join(sorted(networks))

    @property
    def _entries(self) -> dict[str, dict[str, Any]]:
        return getattr(self.model, "pruning_state", {})

    def restore(self, timetable: Timetable, memory: RolloutMemory) -> dict[str, Any] | None:
        """
        Go on where an earlier part of this run stopped.

        :param timetable: of the callback; its trigger goes on.
        :param memory: gets the scoring data of an on-policy run.
        :return: all that was recorded; ``None`` where there is nothing, or (with a warning) nothing that fits.
        """
        earlier = {name: entry for name, entry in self._entries.items() if entry["learn"] != self.model.start_time}
        found = [name for name in earlier if self.networks & set(name.split(","))]
        found = [self.key] if self.key in found else found
        self._remove(found)
        if not found or self.model.num_timesteps == 0:
            return None
        try:
            self._check(found, earlier[found[0]])
            state = earlier[self.key]["state"]
            timetable.load_state_dict(state["timetable"])
        except PruningError as error:
            warnings.warn(f"model.pruning_state is ignored, and the watch starts anew: {error}", stacklevel=2)
            return None
        if state["rollouts"] is not None:
            memory.parts = [Samples(**_moved(state["rollouts"], self.model.device))]
        return state

    def _check(self, found: Sequence[str], entry: Mapping[str, Any]) -> None:
        now = self.model.num_timesteps
        if self.key not in found:
            raise PruningError(f"it is of {' and '.join(found)}, not of {self.key}.")
        changed = [name for name, value in self.about.items() if entry["about"].get(name) != value]
        if changed:
            raise PruningError(f"it was made with other arguments ({', '.join(changed)}).")
        if not 0 <= now - entry["timesteps"] <= entry["n_envs"]:
            raise PruningError(f"it is of {entry['timesteps']:,} steps, and the agent has trained on without it, to {now:,}.")

    def write(self, timetable: Timetable, memory: RolloutMemory, plan: PruningPlan | None, times: Mapping[str, int]) -> None:
        """
        Replace what is recorded; tensors on the CPU are not copied.

        :param timetable: whose trigger watches.
        :param memory: the scoring data of an on-policy run.
        :param plan: an event that has been planned and not been cut yet.
        :param times: whatever else has to be known.
        """
        scores = {} if plan is None else {name: th.from_numpy(values) for name, values in plan.scores.items()}
        state = {"timetable": timetable.state_dict(), "rollouts": rollouts_to_save(memory), "scores": scores, **times}
        entry = {
            "about": self.about, "learn": self.model.start_time, "n_envs": self.model.n_envs,
            "timesteps": self.model.num_timesteps, "state": state,
        }  # fmt: skip
        self.model.pruning_state = {**self._entries, self.key: entry}  # type: ignore[attr-defined]

    def stamp(self) -> None:
        """What is recorded holds for this timestep too. (Training without the callback leaves it behind.)"""
        if self.key in self._entries:
            self._entries[self.key]["timesteps"] = self.model.num_timesteps

    def clear(self) -> None:
        """Nothing is left to do: the zip carries nothing more."""
        self._remove([self.key])

    def _remove(self, keys: Collection[str]) -> None:
        left = {name: entry for name, entry in self._entries.items() if name not in keys}
        if left:
            self.model.pruning_state = left  # type: ignore[attr-defined]
        elif hasattr(self.model, "pruning_state"):
            del self.model.pruning_state


def rollouts_to_save(memory: RolloutMemory) -> dict[str, Any] | None:
    """:return: the scoring data of an on-policy run by field, on the CPU; ``None`` where there is none or too much."""
    if not memory.parts or sum(tensor.nbytes for part in memory.parts for tensor in tensors_in(vars(part))) > LARGEST:
        return None
    [samples] = memory.batches(memory.n_samples)
    return _moved(vars(samples), th.device("cpu"))


def _moved(fields: Mapping[str, Any], device: th.device) -> dict[str, Any]:
    return mapped(lambda tensor: tensor.to(device), fields)
