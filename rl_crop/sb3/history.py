"""The events of one callback, as ``model.pruning_history`` tells them."""

import warnings
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.report import PruningReport, unit_notes
from rl_crop.core.pruning.steps import merge_reports
from rl_crop.sb3.agent import remember

SOURCE = "PruningCallback"


class History:
    """
    What a callback, or one like it before a resume, has done to an agent.

    :param model: the agent.
    :param networks: what the callback prunes.
    :param structured: whether it removes units, or masks weights.
    """

    def __init__(self, model: BaseAlgorithm, networks: frozenset[str], structured: bool = True) -> None:
        self.model, self.networks, self.structured = model, networks, structured

    @property
    def n_cuts(self) -> int:
        """All that the agent has been through, whoever cut it."""
        return len(getattr(self.model, "pruning_history", []))

    @property
    def events(self) -> list[dict[str, Any]]:
        """Events of the same kind and networks."""
        past = [entry for entry in getattr(self.model, "pruning_history", []) if entry.get("source") == SOURCE]
        own = [entry for entry in past if entry.get("structured", True) == self.structured]
        return [entry for entry in own if self.networks & set(entry.get("networks", self.networks))]

    @property
    def reached(self) -> dict[str, float]:
        """Share of the original that is gone, by network (``"total"`` under ``scope="global"``); empty before any."""
        return dict(self.events[-1]["reached"]) if self.events else {}

    def add(self, report: PruningReport, plans: Iterable[PruningPlan], **facts: Any) -> None:
        """
        Record an event.

        :param report: its report.
        :param plans: the plans that were applied, in order.
        :param facts: whatever else is to be known.
        """
        remaining = {name: 1.0 - share for name, share in self.reached.items()}
        for plan in plans:
            for name, share in plan.budget_sparsity.items():
                remaining[name] = (remaining.get(name, 1.0) if self.structured else 1.0) * (1.0 - share)
        reached = {name: 1.0 - share for name, share in remaining.items()}
        remember(self.model, report, source=SOURCE, networks=sorted(self.networks), reached=reached, **facts)

    def announce(self, finished: bool, verbose: int) -> None:
        """
        Say what is gone in all, of the agent as it was before its first event: in the log as ``pruning/...``. After the
        last event, warn of layers that are left with a single unit: few read a report, and such an agent may learn no more.

        :param finished: whether the last event is over.
        :param verbose: above 0, the report is then printed too.
        """
        last, logger = self.events[-1], self.model.logger
        names = [item.name for item in fields(PruningReport)]
        facts = [{name: event[name] for name in names if name in event} for event in self.events]
        report = merge_reports([PruningReport(**known) for known in facts])
        logger.record("pruning/sparsity", report.sparsity["total"])
        logger.record("pruning/n_params", report.n_params_after)
        logger.record("pruning/flops", report.flops_after)
        logger.record("pruning/seconds", last["seconds"])
        for name, (_, after) in report.widths.items():
            logger.record(f"pruning/{'units' if self.structured else 'weights'}/{name}", after)
        if not finished:
            return
        if verbose > 0:
            gone = ", ".join(f"{name} {share:.1%}" for name, share in last["reached"].items())
            print(f"Pruned at {last['timesteps']:,} steps ({last['decided_by']}); gone in all: {gone}")
            print(report)
        for note in unit_notes(report.widths) if self.structured else ():
            warnings.warn(f"Cut at {last['timesteps']} steps: {note}", stacklevel=2)
