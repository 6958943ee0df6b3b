"""What an agent carries of its pruning: the events that have been, and what an unfinished run has to know."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.graph.tracer import tensors_in
from rl_crop.core.masking.masks import attached_masks, pack
from rl_crop.core.model import Subject, mapped
from rl_crop.core.pruning.original import share_of_now
from rl_crop.core.pruning.report import PruningReport, unit_notes
from rl_crop.core.pruning.steps import merge_reports
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.core.recipes.engine import VERSION, PruningEngine
from rl_crop.core.recipes.recipe import Recipe
from rl_crop.core.recipes.state import Change
from rl_crop.sb3.adapters import unwrap
from rl_crop.sb3.batches import Samples
from rl_crop.sb3.data import RolloutMemory

SOURCE = "PruningCallback"
LARGEST = 16 * 2**20
"""Bytes of scoring data that a checkpoint carries at most."""


def record_event(model: BaseAlgorithm, report: PruningReport, transaction: Transaction, **facts: Any) -> None:
    """
    Add an event to ``model.pruning_history``, a plain list of plain dictionaries.

    The last one holds the masks of the policy, targets included, under ``"masks"``, where there are any.

    :param transaction: one that undoes it.
    """
    entry = {"timesteps": int(model.num_timesteps), **facts, **report.to_dict()}
    masks = attached_masks(named_tensors(unwrap(model.policy)))
    past = [{key: value for key, value in event.items() if key != "masks"} for event in history(model)]
    events = [*past, entry | ({"masks": pack(masks)} if masks else {})]
    transaction.set_attribute(model, "pruning_history", events)


def history(model: BaseAlgorithm) -> list[dict[str, Any]]:
    """:return: ``model.pruning_history``, empty before any event."""
    return getattr(model, "pruning_history", [])


def told_apart(recipe: Recipe, sparsity: Any, settings: Mapping[str, Any], ignore: Any, of: str) -> dict[str, str]:
    """
    What makes an event another one; bounds and the number of batches do not.

    :param recipe: of the event.
    :param sparsity: as it was asked for.
    :param settings: of a cut of units.
    :param ignore: what is left whole.
    :param of: whose share the sparsity is.
    :return: as text, by name.
    """
    described = {name: value for name, value in recipe.described.items() if name not in ("until", "options", "driver")}
    options = {name: value for name, value in recipe.options.items() if name in ("n_events", "min_units")}
    sizes = {name: str(value) for name, value in settings.items() if value is not None}
    whole = {"ignore": str(ignore)} if ignore else {}
    share = {"of": of} if of != "current" else {}
    return {"sparsity": str(sparsity), **sizes, **whole, **share, **described, "options": str(options)}


class AgentState:
    """
    One callback's part of what an agent carries.

    ``model.pruning_history`` holds its events. ``model.pruning_state`` is a plain dictionary of numbers, strings, lists and
    tensors on the CPU; a callback's entry is there from the start of training until the last event. Stable-Baselines3 saves
    both with the other attributes, and loads them where this package is not installed.

    :param model: the agent.
    :param networks: what the callback prunes; the entry stands under these names.
    :param structured: whether it removes units, or masks weights.
    :param arguments: those that make an event another one, as text.
    """

    def __init__(self, model: BaseAlgorithm, networks: frozenset[str], structured: bool, arguments: Mapping[str, str]) -> None:
        self.model, self.networks, self.structured, self.arguments = model, networks, structured, dict(arguments)
        self.key = ",".join(sorted(networks))
        self._curves: tuple[dict[str, Any], dict[str, Any]] | None = None

    @property
    def events(self) -> list[dict[str, Any]]:
        """Events of the same kind, networks and arguments."""
        past = [entry for entry in history(self.model) if entry.get("source") == SOURCE]
        own = [entry for entry in past if entry.get("structured", True) == self.structured]
        own = [entry for entry in own if entry.get("arguments", self.arguments) == self.arguments]
        return [entry for entry in own if self.networks & set(entry.get("networks", self.networks))]

    def share_of_now(self, sparsity: Any, of: str, recipe: Recipe, budget: str) -> Any:
        """
        :param sparsity: as it was asked for.
        :param of: whose share it is.
        :param recipe: of the events.
        :param budget: what it is a share of.
        :return: the same as shares of the networks as they were before the first of these events.
        """
        past, own = history(self.model), self.events
        before = past[: next(place for place, entry in enumerate(past) if entry is own[0])] if own else past
        asked = {"structured": recipe.structured, "scope": recipe.scope, "budget": budget}
        return share_of_now(sparsity, of, before, asked)

    @property
    def finished(self) -> bool:
        """Whether the last event is recorded."""
        last = self.events[-1] if self.events else {"finished": False}
        return last.get("finished", last.get("event", 0) + 1 >= last.get("n_events", 1))

    def record(self, change: Change, transaction: Transaction, **facts: Any) -> None:
        """
        Add an event to the history. What moves all the time is one event, whose entry is replaced.

        :param change: what has been done.
        :param transaction: one that undoes it.
        :param facts: whatever else is to be known.
        """
        assert change.report is not None
        same = [entry for entry in self.events if not entry.get("finished", True) and entry["event"] == change.number]
        if same:
            rest = [entry for entry in history(self.model) if not any(entry is old for old in same)]
            transaction.set_attribute(self.model, "pruning_history", rest)
        record_event(
            self.model, change.report, transaction, source=SOURCE, networks=sorted(self.networks), reached=change.gone,
            event=change.number, n_events=change.n_events, decided_by=change.decided_by, finished=change.finished,
            arguments=self.arguments, **facts,
        )  # fmt: skip

    def announce(self, verbose: int) -> None:
        """
        Say what an event has done. After the last one, warn of layers that are left with a single unit: few read a report,
        and such an agent may learn no more.

        :param verbose: above 0, the report is then printed too.
        """
        last, report = self.events[-1], self._in_all
        if last["finished"]:
            if verbose > 0:
                gone = ", ".join(f"{name} {share:.1%}" for name, share in last["reached"].items())
                print(f"Pruned at {last['timesteps']:,} steps ({last['decided_by']}); gone in all: {gone}")
                print(report)
            for note in unit_notes(report.widths) if self.structured else ():
                warnings.warn(f"Cut at {last['timesteps']} steps: {note}", stacklevel=2)
        self.model.logger.record("pruning/seconds", last["seconds"])
        self.log()

    @property
    def _in_all(self) -> PruningReport:
        """What is gone of the agent as it was before its first event."""
        names = [item.name for item in fields(PruningReport)]
        facts = [{name: event[name] for name in names if name in event} for event in self.events]
        return merge_reports([PruningReport(**known) for known in facts])

    def log(self, now: bool = True) -> None:
        """
        Write what is gone in all to the agent's logger, as ``pruning/...``; nothing before the first event.

        :param now: whether an event has just happened. Otherwise layers are left out of what is printed.
        """
        if now or (self._curves is None and self.events):
            report, kind = self._in_all, "units" if self.structured else "weights"
            sizes = {"sparsity": report.sparsity["total"], "n_params": report.n_params_after, "flops": report.flops_after}
            widths = {f"pruning/{kind}/{name}": after for name, (_, after) in report.widths.items()}
            self._curves = {f"pruning/{name}": value for name, value in sizes.items()}, widths
        in_all, layers = self._curves or ({}, {})
        for tag, value in (in_all | layers).items():
            self.model.logger.record(tag, value, exclude=None if now or tag in in_all else "stdout")

    @property
    def _entries(self) -> dict[str, dict[str, Any]]:
        return getattr(self.model, "pruning_state", {})

    def found(self, memory: RolloutMemory) -> dict[str, Any] | None:
        """
        Take out what an earlier part of this run has left.

        :param memory: gets the scoring data of an on-policy run.
        :return: what was written; ``None`` where there is nothing, or (with a warning) nothing that fits.
        """
        earlier = {name: entry for name, entry in self._entries.items() if entry["learn"] != self.model.start_time}
        names = [name for name in earlier if self.networks & set(name.split(","))]
        names = [self.key] if self.key in names else names
        self._remove(names)
        if not names or self.model.num_timesteps == 0:
            return None
        try:
            self._check(names, earlier[names[0]])
        except PruningError as error:
            return self._ignored(error)
        state = earlier[self.key]["state"]
        if state["rollouts"] is not None:
            memory.parts = [Samples(**_moved(state["rollouts"], self.model.device))]
        return state

    def start(self, engine: PruningEngine, subject: Subject, state: Mapping[str, Any] | None) -> None:
        """
        Start an engine where an earlier part of this run stopped, or anew.

        :param engine: of this run.
        :param subject: what is pruned.
        :param state: what :meth:`found` has returned.
        """
        if state is not None:
            try:
                return engine.load_state_dict(state["engine"], subject)
            except PruningError as error:
                self._ignored(error)
        if self.events:
            first, last = self.events[0], self.events[-1]
            engine.go_on(last["event"] + 1, first["timesteps"], last["decided_by"], last["reached"])
        engine.start(subject)

    @staticmethod
    def _ignored(error: PruningError) -> None:
        warnings.warn(f"model.pruning_state is ignored, and the watch starts anew: {error}", stacklevel=2)

    def _check(self, found: Sequence[str], entry: Mapping[str, Any]) -> None:
        now = self.model.num_timesteps
        if self.key not in found:
            raise PruningError(f"it is of {' and '.join(found)}, not of {self.key}.")
        version = entry.get("state", {}).get("engine", {}).get("version")
        if version != VERSION:
            raise PruningError(f"it was written by another version of rl_crop (schema {version}, this one reads {VERSION}).")
        changed = [name for name, value in self.arguments.items() if entry["arguments"].get(name) != value]
        if changed:
            raise PruningError(f"it was made with other arguments ({', '.join(changed)}).")
        if not 0 <= now - entry["timesteps"] <= entry["n_envs"]:
            raise PruningError(f"it is of {entry['timesteps']:,} steps, and the agent has trained on without it, to {now:,}.")

    def write(self, engine: PruningEngine, memory: RolloutMemory, progress: Mapping[str, Any], **facts: Any) -> None:
        """
        Replace what is recorded; tensors on the CPU are not copied. Nothing is left where nothing is left to do.

        :param engine: of the run.
        :param memory: the scoring data of an on-policy run.
        :param progress: returns that have been seen.
        :param facts: what else has to be known.
        """
        if engine.finished and not engine.given_up:
            return self.clear()
        state = {"engine": engine.state_dict(), "rollouts": rollouts_to_save(memory), "progress": progress, **facts}
        entry = {
            "arguments": self.arguments, "learn": self.model.start_time, "n_envs": self.model.n_envs,
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
