"""Planning: units are traced, scored, ranked and allocated; nothing is changed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.finding import find_units
from rl_crop.core.graph.groups import DependencyGraph, Group
from rl_crop.core.graph.memory import beyond_reach
from rl_crop.core.importance.activations import MIN_OBSERVATIONS, UnitActivations, dormant_shares
from rl_crop.core.importance.context import GRADIENT_FREE, ImportanceContext, unit_scores
from rl_crop.core.importance.criteria import ERRORS, REPAIRED, WITHOUT_GRADIENT, resolve_criterion
from rl_crop.core.importance.received import ReceivedMoments
from rl_crop.core.importance.signal import signal_notes, with_fallback
from rl_crop.core.masking.masks import refuse_masked
from rl_crop.core.model import Network, Subject
from rl_crop.core.pruning.allocation import Budget
from rl_crop.core.pruning.automatic import Trials, for_fitting, smallest, tolerance_of
from rl_crop.core.pruning.cutting import TRACE_BATCH
from rl_crop.core.pruning.plan import PruningPlan, SizePoint
from rl_crop.core.pruning.settings import AUTO, Settings, Target
from rl_crop.core.pruning.targets import resolve_targets
from rl_crop.core.pruning.twin import whole_where_it_differs
from rl_crop.core.pruning.widths import kept_units
from rl_crop.core.rng import isolated_rng, undisturbed


def make_plan(subject: Subject, sparsity: Target | None, settings: Settings) -> PruningPlan:
    """
    Score, rank and allocate; nothing is changed, generators and modes included.

    :param subject: the model as its task describes it.
    :param sparsity: one for every network that has units, or by network name; networks not named stay whole. ``"auto"`` finds
        the smallest size that computes the same; so does ``None``, where the settings hold no budget.
    :param settings: the rest.
    :return: the plan.
    :raises PruningError: the arguments, the loss or the data do not allow it.
    """
    start = time.perf_counter()
    refuse_masked(subject.trained.tensors)
    if settings.compensation != "none" and not subject.has_observations:
        raise PruningError(f"compensation={settings.compensation!r} needs observations: give batches, or use 'none'.")
    with isolated_rng(settings.seed or 0), undisturbed(subject.root):
        graph = trace(subject, settings.ignore)
        groups = {
            network.name: [group for group in graph.groups.values() if group.tensors("out")[0] in network.parameters]
            for network in subject.networks
        }
        if not graph.groups:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in graph.untouched.items())
            raise PruningError(f"The model has no layer whose units can be removed ({reasons}); nothing was pruned.")
        wanted = resolve_targets(sparsity, settings, subject, graph, [name for name, own in groups.items() if own])
        automatic = AUTO in wanted.values()
        settings = settings.in_shares()
        if automatic and not subject.has_observations:
            raise PruningError("sparsity='auto' compares outputs on observations: give batches, or a sparsity.")
        if not settings.criterion_given and (automatic or settings.criterion == REPAIRED):
            gradients = all(network.loss is not None for network in subject.networks if wanted.get(network.name))
            settings = replace(settings, criterion=REPAIRED if gradients else WITHOUT_GRADIENT)
        looked_at = for_fitting(subject) if automatic else subject
        chosen = [network for network in looked_at.networks if wanted.get(network.name)]
        activations = UnitActivations(looked_at, graph)
        received = ReceivedMoments(looked_at, [group for network in chosen for group in groups[network.name]])
        scores: dict[str, np.ndarray] = {}
        silent: list[str] = []
        for network in chosen:
            own, without = _scores(looked_at, network, groups[network.name], settings, activations, received)
            scores |= own
            silent += without
        targets = {name: share for name, share in wanted.items() if not isinstance(share, str)}
        found = [name for name in wanted if name not in targets]
        trials = Trials(subject) if found else None
        curve: dict[str, list[SizePoint]] = {name: [] for name in found}
        for names in _of_one_width(found, graph, groups):

            def point_at(share: float, names: Sequence[str] = names) -> SizePoint | None:
                try:
                    kept = kept_units(graph, looked_at, groups, scores, dict.fromkeys(names, share), settings)
                except PruningError:
                    return None  # of fewer units than may be
                trial = _describe(looked_at, graph, groups, scores, kept, {}, settings, 0.0)
                assert trials is not None
                error = trials.error(trial)
                for name in names:
                    curve[name].append(SizePoint(share, trial.budget_sparsity[name], trial.n_params_after, error))
                return curve[names[0]][-1]

            largest, _ = smallest(point_at, min(tolerance_of(settings.tolerance, name) for name in names))
            targets |= dict.fromkeys(names, largest)
        kept = kept_units(graph, subject, groups, scores, targets, settings)
        dormant = dormant_shares(activations.few(), kept, graph)
    plan = _describe(subject, graph, groups, scores, kept, dormant, settings, time.perf_counter() - start)
    by_size = {name: sorted(points, key=lambda point: point.n_params) for name, points in curve.items()}
    return replace(plan, curve=by_size, notes=signal_notes(silent, settings.criterion_name))


def _of_one_width(names: Sequence[str], graph: DependencyGraph, groups: Mapping[str, list[Group]]) -> list[list[str]]:
    """:return: the networks, those together that have layers of one width, whose size is one question"""
    sets = [[name] for name in names]
    for one in graph.one_width.values():
        joined = [own for own in sets if any(group.name in one for name in own for group in groups[name])]
        sets = [own for own in sets if own not in joined] + ([sum(joined, [])] if joined else [])
    return sets


def trace(subject: Subject, ignore: tuple[str, ...] = ()) -> DependencyGraph:
    """
    :param subject: what is pruned; nothing of it is changed.
    :param ignore: modules left whole.
    :return: its units, found by running it in both modes and by all that training does with it, and tried out.
    """
    runs = [lambda run=run: run(TRACE_BATCH) for run in subject.trained.runs]
    trained = () if subject.uses else subject.trained.runs  # uses are looked at in training mode
    training = [lambda run=run: run(TRACE_BATCH) for run in (*subject.training, *trained)]
    pinned = {why: (lambda run=run: run(TRACE_BATCH)) for why, run in subject.pinned.items()}
    whole = dict(subject.whole) | dict.fromkeys(ignore, "ignored on request")
    modules = [part for copy in subject.copies for module in copy.modules for part in module.modules()]
    laid_out = [part for part in modules if subject.one_vector or isinstance(part, th.nn.RNNBase)]
    fixed = beyond_reach((copy.tensors for copy in subject.copies), laid_out) | dict(subject.fixed)
    beside = (subject.ties, pinned, training, subject.strangers, fixed, subject.stored, subject.one_width)
    rows = [] if subject.uses else [lambda run=run: run(index=slice(MIN_OBSERVATIONS)) for run in subject.trained.runs]
    n_rows = TRACE_BATCH if subject.apart else 1
    graph = find_units(subject.root, subject.trained.tensors, runs, n_rows, whole, *beside, rows, subject.uses)
    return whole_where_it_differs(subject, graph)


def _scores(
    subject: Subject,
    network: Network,
    groups: list[Group],
    settings: Settings,
    activations: UnitActivations,
    received: ReceivedMoments,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """:return: scores by group, and the groups about which the criterion says nothing"""
    parameters = {
        slot.tensor: subject.trained.tensors[slot.tensor]
        for group in groups
        for slot in group.slots
        # Fixed weights are buffers; stored data are neither.
        if slot.tensor not in subject.stored
        and (isinstance(subject.trained.tensors[slot.tensor], th.nn.Parameter) or slot.role != "along")
        and slot.tensor not in subject.unscored
    }
    context = ImportanceContext(
        groups=groups,
        parameters=parameters,
        loss=subject.loss_of(network),
        batches=network.batches,
        forward_on_ones=lambda: [run(ones=True) for run in subject.trained.runs],
        activations=activations,
        seed=settings.seed or 0,
        tensors=subject.trained.tensors,
        received=received,
    )
    criterion = settings.criterion
    if isinstance(criterion, str) and criterion not in GRADIENT_FREE and groups and _frozen(subject, network):
        if criterion not in ERRORS:
            return with_fallback({group.name: np.zeros(group.n_units) for group in groups}, context, groups)
        criterion = WITHOUT_GRADIENT
    scores = unit_scores(resolve_criterion(criterion)(context), groups)
    # A function of the user's own means what it says of whole layers, where it says anything.
    telling = callable(settings.criterion) and len(np.unique(np.concatenate([*scores.values()]))) > 1
    return (scores, ()) if telling else with_fallback(scores, context, groups)


def _frozen(subject: Subject, network: Network) -> bool:
    """:return: whether all of a network is frozen, beside others that are not"""
    free = [name for name, tensor in subject.trained.tensors.items() if tensor.requires_grad]
    return bool(free) and network.parameters.isdisjoint(free)


def _describe(
    subject: Subject,
    graph: DependencyGraph,
    groups: dict[str, list[Group]],
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
    # All that is trained counts, also what belongs to no network (an extractor left whole, a free log_std).
    own = frozenset(name for name, tensor in subject.trained.tensors.items() if isinstance(tensor, th.nn.Parameter))
    n_params = sum(int(np.prod(graph.shapes[name])) for name in own)
    # What no unit reaches costs the same before and after, so the whole changes by what the prunable part loses.
    flops = sum(2 * graph.applications.get(name, 0) * int(np.prod(graph.shapes[name])) for name in own)
    flops_gone = sum(Budget(graph, own, "flops").cost(widths) * sign for widths, sign in (({}, 1), (after, -1)))
    keep, before, widths = {}, {}, {}
    for name, units in kept.items():
        index = graph.groups[name].outputs
        keep[name] = np.sort(index[units].ravel())
        before[name], widths[name] = index.size, keep[name].size
    shares = {"total": own} if settings.scope == "global" else {
        network.name: network.parameters for network in subject.networks if groups[network.name]
    }  # fmt: skip
    reached = {name: Budget(graph, names, settings.budget).sparsity(after) for name, names in shares.items()}
    return PruningPlan(
        keep=keep,
        scores={name: scores[name] for name in kept},
        widths_before=before,
        widths_after=widths,
        sparsity=sparsity,
        budget_sparsity=reached,
        dormant=dormant,
        n_params_before=n_params,
        n_params_after=n_params - round(gone),
        flops_before=round(flops),
        flops_after=round(flops - flops_gone),
        graph=graph,
        kept_units=kept,
        subject=subject,
        settings=settings,
        seconds=seconds,
    )
