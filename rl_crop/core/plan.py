"""Score, rank and allocate without changing anything; then cut, compensate and check, all or nothing."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.activations import unit_activations
from rl_crop.core.allocation import BUDGETS, SCOPES, Budget, allocate
from rl_crop.core.compensation import COMPENSATIONS, Compensator
from rl_crop.core.criteria import SPANNING, Criterion, Scoring, resolve_criterion, unit_scores
from rl_crop.core.distillation import Distiller
from rl_crop.core.errors import PruningError
from rl_crop.core.report import PruningReport, summary_lines, table
from rl_crop.core.rng import eval_mode, isolated_rng
from rl_crop.core.subject import Copy, Network, Subject
from rl_crop.core.surgery import Transaction, cut, update_sizes
from rl_crop.core.units import UnitGraph, UnitGroup, find_units

Target = float | Mapping[str, float]
"""A sparsity for every network, or one by network name."""

TRACE_BATCH = 2
DORMANT = 0.025
"""A unit is dormant when its mean absolute activation is at most this share of its layer's mean (Sokar et al. 2023)."""


@dataclass(frozen=True)
class Settings:
    """
    How units are chosen and what repairs the cut; the keywords of every ``plan_...`` and ``prune_...`` function.

    :param criterion: a name in :data:`~rl_crop.core.criteria.CRITERIA`, or a function of a ``Scoring``.
    :param scope: ``"network"`` (one ranking a network), ``"layer"`` (the same share of units in every layer) or
        ``"global"`` (one ranking and one budget over all networks).
    :param budget: what ``sparsity`` is a share of: ``"params"``, ``"flops"`` or ``"units"``.
    :param structured: ``True`` removes units physically.
    :param compensation: ``"none"``, ``"bias"``, ``"least_squares"`` or ``"distill"``.
    :param ignore: modules left whole, by ``named_modules()`` name.
    :param min_units: units that stay in every layer.
    :param seed: of everything random (0 where ``None``).
    """

    criterion: str | Criterion = "crop"
    scope: str = "network"
    budget: str = "params"
    structured: bool = True
    compensation: str = "least_squares"
    ignore: tuple[str, ...] = ()
    min_units: int = 1
    seed: int | None = None

    def __post_init__(self) -> None:
        resolve_criterion(self.criterion)
        for name, allowed in (("scope", SCOPES), ("budget", BUDGETS), ("compensation", COMPENSATIONS)):
            if getattr(self, name) not in allowed:
                raise PruningError(f"{name}={getattr(self, name)!r} is not one of {list(allowed)}.")
        if not isinstance(self.min_units, int) or self.min_units < 1:
            raise PruningError(f"min_units={self.min_units!r} must be an integer of at least 1.")
        if isinstance(self.ignore, str):
            object.__setattr__(self, "ignore", (self.ignore,))
        if not self.structured:
            if self.criterion in SPANNING:
                raise PruningError(f"criterion={self.criterion!r} ranks whole units: it needs structured=True.")
            raise PruningError("structured=False (masks) is not available in this version: use structured=True.")

    @property
    def criterion_name(self) -> str:
        """The name for reports."""
        return self.criterion if isinstance(self.criterion, str) else getattr(self.criterion, "__name__", "custom")


@dataclass(frozen=True)
class PruningPlan:
    """
    Which units would stay; making it changed nothing, :meth:`apply` cuts.

    :param keep: kept indices of each producing layer's outputs: ascending int64.
    :param scores: one score a unit, by layer.
    :param widths_before: outputs of each layer now.
    :param widths_after: and after the cut.
    :param sparsity: share of the prunable parameters that will be gone, by network and in ``"total"``.
    :param budget_sparsity: share of the budget (parameters, FLOPs or units) that will be gone, by network, or in
        ``"total"`` under ``scope="global"``.
    :param dormant: share of dormant units by layer, among all and among those removed (only with observations).
    """

    keep: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]
    widths_before: dict[str, int]
    widths_after: dict[str, int]
    sparsity: dict[str, float]
    budget_sparsity: dict[str, float]
    dormant: dict[str, tuple[float, float]]
    n_params_before: int
    n_params_after: int
    flops_before: int
    flops_after: int
    graph: UnitGraph = field(repr=False)
    kept_units: dict[str, np.ndarray] = field(repr=False)
    subject: Subject = field(repr=False)
    settings: Settings = field(repr=False)
    seconds: float = 0.0

    def __str__(self) -> str:
        rows = []
        for name, before in self.widths_before.items():
            shares = [f"{share:.0%}" for share in self.dormant[name]] if name in self.dormant else ["-", "-"]
            rows.append([name, str(before), str(self.widths_after[name]), *shares])
        header = ["layer", "units before", "after", "dormant", "dormant of removed"]
        whole = [f"left whole: {name} ({reason})" for name, reason in self.graph.untouched.items()]
        return "\n".join([table(header, rows), *summary_lines(self), *whole])

    def apply(self, transaction: Transaction | None = None) -> PruningReport:
        """
        Cut and compensate, with the weights of this moment.

        :param transaction: one to join, so that several cuts are undone together; by default the cut is one of its own.
        :return: the report.
        :raises PruningError: shapes changed since planning, or the cut network does not run; everything is then as before.
        """
        start = time.perf_counter()
        for name, tensor in self.subject.trained.tensors.items():
            if self.graph.shapes[name] != tuple(tensor.shape):
                raise PruningError(f"{name!r} has changed its shape since this plan was made: make a new plan.")
        notes: tuple[str, ...] = ()
        if any(len(kept) < self.graph.groups[name].n_units for name, kept in self.kept_units.items()):
            with isolated_rng(self.settings.seed or 0), eval_mode(self.subject.root):
                if transaction is not None:
                    notes = self._cut(transaction)
                else:
                    with Transaction() as own:
                        notes = self._cut(own)
        widths = {name: (before, self.widths_after[name]) for name, before in self.widths_before.items()}
        report = PruningReport(
            self.n_params_before, self.n_params_after, dict(self.sparsity), self.flops_before, self.flops_after, widths,
            dict(self.graph.untouched), self.seconds + time.perf_counter() - start, self.settings.criterion_name,
            self.settings.compensation, notes,
        )  # fmt: skip
        if transaction is None:
            self.subject.applied(report)
        return report

    def _cut(self, transaction: Transaction) -> tuple[str, ...]:
        subject, kind = self.subject, self.settings.compensation
        repairs = [] if kind == "none" else [self._compensator(copy) for copy in subject.copies]
        distillers = (
            [Distiller(copy.tensors, list(copy.runs.values())) for copy in subject.copies] if kind == "distill" else []
        )
        changed = []
        for copy in subject.copies:
            names = cut(transaction, self.graph, copy.tensors, self.kept_units, subject.optimizers)
            changed += [copy.tensors[name] for name in names]
        update_sizes(transaction, [module for copy in subject.copies for module in copy.modules], changed)
        for repair in repairs:
            repair.refit(transaction)
        for distiller in distillers:
            distiller.fit(transaction)
        subject.after_cut(transaction)
        for copy in subject.copies:
            for run in copy.runs.values():
                _check_runs(run)
        lost = sorted({name for repair in repairs for name in repair.without_bias()})
        return tuple(f"{name} has no bias: a constant that it lost could not be restored" for name in lost)

    def _compensator(self, copy: Copy) -> Compensator:
        return Compensator(self.graph, self.kept_units, copy.tensors, list(copy.runs.values()), self.settings.compensation)


def make_plan(subject: Subject, sparsity: Target, settings: Settings) -> PruningPlan:
    """
    Score, rank and allocate; nothing is changed, generators and modes included.

    :param subject: the model as its task describes it.
    :param sparsity: one for every network that has units, or by network name; networks not named stay whole.
    :param settings: the rest.
    :return: the plan.
    :raises PruningError: the arguments, the loss or the data do not allow it.
    """
    start = time.perf_counter()
    if settings.compensation != "none" and not subject.has_observations:
        raise PruningError(f"compensation={settings.compensation!r} needs observations: give batches, or use 'none'.")
    with isolated_rng(settings.seed or 0), eval_mode(subject.root):
        graph = trace(subject, settings.ignore)
        groups = {
            network.name: [group for group in graph.groups.values() if group.tensors("out")[0] in network.parameters]
            for network in subject.networks
        }
        targets = sparsity_by_network(sparsity, [name for name, own in groups.items() if own], settings.scope)
        chosen = [network for network in subject.networks if targets.get(network.name)]
        activations = _Activations(subject, graph)
        scores = {}
        for network in chosen:
            scores |= _scores(subject, network, groups[network.name], settings, activations)
        kept = _allocate(graph, subject, groups, scores, targets, settings)
        dormant = _dormant(activations() if subject.has_observations else {}, kept, graph)
    return _describe(subject, graph, groups, scores, kept, dormant, settings, time.perf_counter() - start)


def trace(subject: Subject, ignore: tuple[str, ...] = ()) -> UnitGraph:
    """:return: the units of a subject, found by running it on a few observations."""
    runs = [lambda run=run: run(TRACE_BATCH) for run in subject.trained.runs.values()]  # type: ignore[misc]
    whole = dict(subject.whole) | dict.fromkeys(ignore, "ignored on request")
    return find_units(subject.root, subject.trained.tensors, runs, TRACE_BATCH, whole, subject.ties)


def sparsity_by_network(sparsity: Target, names: list[str], scope: str) -> dict[str, float]:
    """:return: the target of every named network; raises :class:`PruningError` for what is not in [0, 1)."""
    if isinstance(sparsity, Mapping):
        unknown = sorted(set(sparsity) - set(names))
        if unknown:
            raise PruningError(f"sparsity names {unknown}, but the networks with units are {names}.")
        if scope == "global":
            raise PruningError("scope='global' has one budget: give one sparsity, not one a network.")
    elif not names:
        raise PruningError("The model has no layer whose units can be removed; nothing was pruned.")
    check_sparsity(sparsity)
    return dict(sparsity) if isinstance(sparsity, Mapping) else dict.fromkeys(names, sparsity)


def check_sparsity(sparsity: Any) -> None:
    """:raises PruningError: it is neither a number in [0, 1) nor a mapping from network to such numbers."""
    for name, value in (sparsity if isinstance(sparsity, Mapping) else {"": sparsity}).items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            what = f"sparsity of {name}" if name else "sparsity"
            raise PruningError(f"{what} is {value!r}: it must be a number in [0, 1), such as 0.9 for 90 %.")


class _Activations:
    """Unit activations of the trained copy, computed once, when first asked for."""

    def __init__(self, subject: Subject, graph: UnitGraph) -> None:
        self.subject, self.graph = subject, graph
        self.found: dict[str, np.ndarray] | None = None

    def __call__(self) -> dict[str, np.ndarray]:
        if not self.subject.has_observations:
            raise PruningError("This criterion looks at activations: give batches of observations.")
        if self.found is None:
            copy = self.subject.trained
            names = {slot.tensor for group in self.graph.groups.values() for slot in group.slots if slot.role == "in"}
            weights = {name: copy.tensors[name] for name in names}
            self.found = unit_activations(self.graph.groups.values(), weights, copy.runs.values())
        return self.found


def _scores(
    subject: Subject, network: Network, groups: list[UnitGroup], settings: Settings, activations: Callable[[], Any]
) -> dict[str, np.ndarray]:
    parameters = {
        slot.tensor: subject.trained.tensors[slot.tensor]
        for group in groups
        for slot in group.slots
        if isinstance(subject.trained.tensors[slot.tensor], th.nn.Parameter)
    }
    run = subject.trained.runs.get(network.name)
    scoring = Scoring(
        groups, parameters, network.loss, network.batches, None if run is None else lambda: run(ones=True), activations,
        settings.seed or 0,
    )  # fmt: skip
    return unit_scores(resolve_criterion(settings.criterion)(scoring), groups)


def _allocate(
    graph: UnitGraph,
    subject: Subject,
    groups: dict[str, list[UnitGroup]],
    scores: dict[str, np.ndarray],
    targets: dict[str, float],
    settings: Settings,
) -> dict[str, np.ndarray]:
    kept: dict[str, np.ndarray] = {}
    chosen = [network for network in subject.networks if targets.get(network.name)]
    shares = [chosen] if settings.scope == "global" and chosen else [[network] for network in chosen]
    for together in shares:
        names = frozenset().union(*(network.parameters for network in together))
        budget = Budget(graph, names, settings.budget)
        settled = {name: len(units) for name, units in kept.items()}
        kept |= allocate(
            [group for network in together for group in groups[network.name]],
            scores,
            targets[together[0].name],
            lambda widths, budget=budget, settled=settled: budget.sparsity({**settled, **widths}),  # type: ignore[misc]
            settings.scope,
            settings.min_units,
            " and ".join(network.name for network in together),
        )
    return kept


def _dormant(
    activations: dict[str, np.ndarray], kept: dict[str, np.ndarray], graph: UnitGraph
) -> dict[str, tuple[float, float]]:
    shares = {}
    for name, units in kept.items():
        if name in activations:
            strength = np.abs(activations[name]).mean(0)
            dormant = strength <= DORMANT * strength.mean()
            removed = np.setdiff1d(np.arange(graph.groups[name].n_units), units)
            shares[name] = (float(dormant.mean()), float(dormant[removed].mean()) if len(removed) else 0.0)
    return shares


def _describe(
    subject: Subject,
    graph: UnitGraph,
    groups: dict[str, list[UnitGroup]],
    scores: dict[str, np.ndarray],
    kept: dict[str, np.ndarray],
    dormant: dict[str, tuple[float, float]],
    settings: Settings,
    seconds: float,
) -> PruningPlan:
    after = {name: len(units) for name, units in kept.items()}
    budgets = {network.name: Budget(graph, network.parameters) for network in subject.networks}
    sparsity = {name: budget.sparsity(after) for name, budget in budgets.items() if groups[name]}
    prunable = sum(budget.cost({}) for budget in budgets.values())
    gone = prunable - sum(budget.cost(after) for budget in budgets.values())
    sparsity["total"] = gone / prunable if prunable else 0.0
    own = frozenset().union(*(network.parameters for network in subject.networks))
    n_params = sum(int(np.prod(graph.shapes[name])) for name in own)
    # What no unit reaches costs the same before and after, so the whole changes by what the prunable part loses.
    flops = sum(2 * graph.applications.get(name, 0) * int(np.prod(graph.shapes[name])) for name in own)
    flops_gone = sum(Budget(graph, own, "flops").cost(widths) * sign for widths, sign in (({}, 1), (after, -1)))
    keep, before, widths = {}, {}, {}
    for name, units in kept.items():
        index = next(slot for slot in graph.groups[name].slots if slot.role == "out").index
        keep[name] = np.sort(index[units].ravel())
        before[name], widths[name] = index.size, keep[name].size
    shares = {"total": own} if settings.scope == "global" else {
        network.name: network.parameters for network in subject.networks if groups[network.name]
    }  # fmt: skip
    reached = {name: Budget(graph, names, settings.budget).sparsity(after) for name, names in shares.items()}
    return PruningPlan(
        keep, {name: scores[name] for name in kept}, before, widths, sparsity, reached, dormant, n_params, n_params - round(gone),
        round(flops), round(flops - flops_gone), graph, kept, subject, settings, seconds,
    )  # fmt: skip


def _check_runs(run: Callable[..., Any]) -> None:
    try:
        with th.no_grad():
            outputs = run(TRACE_BATCH)
    except PruningError:
        raise
    except Exception as error:
        raise PruningError(
            f"The cut network does not run ({error}); everything was put back. A size written into its forward() "
            f"can be the reason: name the modules that it belongs to in ignore=."
        ) from error
    for output in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
        if isinstance(output, th.Tensor) and not bool(th.isfinite(output).all()):
            raise PruningError("The cut network's outputs are not finite; everything was put back.")
