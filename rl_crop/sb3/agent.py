"""Pruning a Stable-Baselines3 agent, or a bare policy in a loop of one's own."""

import gc
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from rl_crop.core import prunable
from rl_crop.core.errors import PruningError, explained
from rl_crop.core.given import check_callable, described, listed, listed_batches
from rl_crop.core.importance.context import GRADIENT_FREE
from rl_crop.core.importance.criteria import REPAIRED, needs_data
from rl_crop.core.masking.plan import make_mask_plan
from rl_crop.core.masking.weights import Weights
from rl_crop.core.pruning.original import share_of_now
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.planning import make_plan, trace
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.pruning.settings import Settings, Target, check_counts, check_names_any, check_sparsity, is_auto
from rl_crop.core.pruning.steps import apply_at_once, apply_steps, step_targets
from rl_crop.core.rng import turn
from rl_crop.sb3.adapters import describe, unwrap
from rl_crop.sb3.along import along
from rl_crop.sb3.batches import checked_samples
from rl_crop.sb3.data import BATCH_SIZE, N_BATCHES, agent_batches
from rl_crop.sb3.networks import Hyperparameters, Objective, PolicyNetworks
from rl_crop.sb3.observations import lost_normalization
from rl_crop.sb3.state import history, record_event
from rl_crop.sb3.subject import policy_subject

Loss = Callable[[Any, Any], th.Tensor]
LOST = (
    "The agent was trained with VecNormalize, and without it its data are not what it knows: load it with "
    "env=VecNormalize.load(...), give batches= that are normalised, or take compensation='none' and a criterion without data."
)


@turn()
def plan_policy_pruning(
    model_or_policy: BaseAlgorithm | BasePolicy,
    sparsity: Target | None = None,
    *,
    networks: str | Sequence[str] | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss | Mapping[str, Loss] | None = None,
    gamma: float | None = None,
    ent_coef: float | None = None,
    optimizers: Any = None,
    mirrors: Any = None,
    n_batches: int = N_BATCHES,
    batch_size: int = BATCH_SIZE,
    of: str = "current",
    **settings: Any,
) -> PruningPlan:
    """
    Score, rank and allocate the units (or, with ``structured=False``, the weights) of an agent's networks; changes nothing.

    Where an algorithm holds less than one batch, a rollout is collected, which moves its environment on. Applied, the plan is
    recorded in ``model.pruning_history``.

    :param model_or_policy: an SB3 algorithm, or an SB3 policy. Where an algorithm holds the policy, that is found; for a bare
        one give ``batches``.
    :param sparsity: share of each network's prunable parameters to remove, in [0, 1): one number, or by network
        (``"actor"``, ``"critic"``); networks not named stay whole. ``"auto"``, the default where no ``max_params`` or
        ``max_flops`` is given, finds the smallest widths at which the repaired networks compute what they do now.
    :param networks: with one number, the networks it applies to (all by default).
    :param batches: SB3 ``RolloutBufferSamples`` or ``ReplayBufferSamples``, mappings with those fields, or observations,
        normalised as the policy sees them. An algorithm's own data by default.
    :param loss: replaces the objective: ``callable(policy, batch)``, or one by network. A batch's fields are its attributes
        (of a mapping, its items too); observations alone are ``batch.observations``.
    :param gamma: discount factor; the algorithm's own by default, of a bare policy 0.99.
    :param ent_coef: weight of the entropy; the algorithm's own by default, of a bare policy 0.
    :param optimizers: whose state is cut along, beside those that algorithm and policy hold anywhere: optimizers, names of
        attributes of the algorithm, or a function of it that returns them.
    :param mirrors: copies of the policy, or of a part of it, that are cut at the same indices, beside those that are found
        (attributes whose weights are like those of a network of the same structure): likewise; modules, state dicts or lists
        of parameters.
    :param n_batches: number of scoring batches taken from the algorithm's data.
    :param batch_size: transitions in each.
    :param of: whose share a sparsity is: ``"current"``, of the networks as they are, or ``"original"``, as they were before
        the first event of ``pruning_history``.
    :param settings: see :class:`~rl_crop.core.pruning.settings.Settings`.
    :return: the plan.
    :raises PruningError: the agent, its data or the arguments do not allow it; says what to do.
    """
    check_counts({"n_batches": n_batches, "batch_size": batch_size})
    _check_numbers(gamma, ent_coef)
    if not isinstance(model_or_policy, (BaseAlgorithm, th.nn.Module)):
        raise PruningError(f"Expected an agent or a policy of Stable-Baselines3, which is {described(model_or_policy)}.")
    model = model_or_policy if isinstance(model_or_policy, BaseAlgorithm) else algorithm_of(model_or_policy)
    policy = unwrap(model_or_policy if model is None else model.policy)
    beside = along(model, policy, optimizers, mirrors, settings.pop("ignore", ()))
    Settings.check_names(settings)
    chosen = Settings(ignore=beside.ignore, **settings)
    if model is None:
        hyper = Hyperparameters(0.99 if gamma is None else gamma, ent_coef or 0.0)
    else:
        hyper = Hyperparameters.of(model, gamma=gamma, ent_coef=ent_coef)
    parts = describe(policy, hyper)
    losses = _losses(policy, parts, loss)
    if chosen.criterion_given or not (sparsity is None or is_auto(sparsity) or chosen.criterion == REPAIRED):
        _check_gradient(policy, chosen.criterion, losses)
    past = None if model is None else history(model)
    targets = share_of_now(target_by_network(sparsity, networks), of, past, settings)
    unknown = sorted(set(targets) - set(parts.modules)) if isinstance(targets, Mapping) else []
    if unknown:
        raise PruningError(f"Unknown networks {unknown}: this policy has {list(parts.modules)}.")
    lost = False
    if batches is None and model is not None and (needs_data(chosen.criterion) or chosen.compensation != "none"):
        lost = lost_normalization(model)
        if lost and chosen.compensation != "none":
            raise PruningError(f"{LOST} Nothing was changed.")
        batches = agent_batches(model, n_batches, batch_size, chosen.seed or 0)
    given = listed_batches(batches)
    with explained("Pruning could not be planned"):
        samples = [parts.prepare(batch) for batch in checked_samples(given, policy)]
        subject = policy_subject(policy, parts, samples, losses, model, beside)
        if lost:
            subject = replace(subject, notes=(*subject.notes, LOST))
        if model is not None:
            subject = replace(subject, applied=partial(record_event, model, source="plan_policy_pruning"))
        plan = (make_plan if chosen.structured else make_mask_plan)(subject, targets, chosen)
        plan.rehearse()
        return plan


@turn()
def prune_policy(
    model_or_policy: BaseAlgorithm | BasePolicy,
    sparsity: Target | None = None,
    *,
    schedule: str = "one_shot",
    of: str = "current",
    **keywords: Any,
) -> PruningReport:
    """
    Plan and apply; see :func:`plan_policy_pruning` for the other arguments.

    The event is added to ``model.pruning_history``, which travels in the saved zip.

    :param schedule: ``"one_shot"``, or ``"iterative"``: in seven steps, scored anew at each on the same data.
    :param of: whose share a sparsity is: ``"current"`` or ``"original"``.
    :return: the report. Networks, targets and optimizer state have been cut, or masked, in place.
    :raises PruningError: nothing was changed.
    """
    model = model_or_policy if isinstance(model_or_policy, BaseAlgorithm) else algorithm_of(model_or_policy)
    if of != "current":
        asked = target_by_network(sparsity, keywords.pop("networks", None))
        sparsity = share_of_now(asked, of, None if model is None else history(model), keywords)
    record = None if model is None else partial(record_event, model, source="prune_policy")
    pruned = model_or_policy if model is None else model  # so that it is looked for once
    if sparsity is None or is_auto(sparsity):
        return apply_at_once(plan_policy_pruning(pruned, sparsity, **keywords), schedule, record)
    shares: Any = sparsity
    targets = step_targets(shares, schedule)
    first = plan_policy_pruning(pruned, targets[0], **keywords)
    keywords["batches"] = first.subject.networks[0].batches or None
    return apply_steps(lambda target: plan_policy_pruning(pruned, target, **keywords), targets, first, record)


def algorithm_of(policy: Any) -> BaseAlgorithm | None:
    """
    :return: the algorithm that holds a policy: it is what is saved, and rebuilds the policy when it is loaded.
    :raises PruningError: several hold it.
    """
    holders = gc.get_referrers(policy)  # an object, or its dictionary of attributes: far quicker than to ask every object
    holders += gc.get_referrers(*(holder for holder in holders if isinstance(holder, dict)))
    # An object's class is asked for, and not the object, as some objects answer for others.
    agents = {id(item): item for item in holders if issubclass(type(item), BaseAlgorithm)}
    found = [agent for agent in agents.values() if vars(agent).get("policy") is policy]
    if len(found) > 1:
        raise PruningError("Several algorithms hold this policy, and each would save it in its own way: nothing was changed.")
    return found[0] if found else None


def prunable_parameters(model: BaseAlgorithm, structured: bool = True) -> dict[str, list[th.Tensor]]:
    """:return: by network, the parameters in which its units lie, or the weights that can be masked (targets not counted)."""
    policy = unwrap(model.policy)
    parts = describe(policy)
    subject = policy_subject(policy, parts, (), parts.losses, model)
    graph = trace(subject)
    return prunable.prunable_parameters(subject, graph, None if structured else Weights.of(subject, graph))


def target_by_network(sparsity: Target | None, networks: str | Sequence[str] | None) -> Any:
    """
    :param sparsity: one number, or by network.
    :param networks: the networks it applies to, or ``None`` for all.
    :return: sparsity by network where networks are named, else the one number.
    :raises PruningError: a sparsity is not in [0, 1), or the two name different networks.
    """
    if sparsity is None:
        if networks is not None:
            raise PruningError("networks needs a sparsity (a number, or 'auto'): a budget names networks itself.")
        return None
    check_names_any(sparsity)
    check_sparsity(sparsity)
    if networks is None:
        return dict(sparsity) if isinstance(sparsity, Mapping) else sparsity
    names = listed("networks", networks, str, "names, such as ['actor']")
    if not names:
        raise PruningError("networks is empty: name at least one, or leave it out to prune all.")
    if not isinstance(sparsity, Mapping):
        return dict.fromkeys(names, sparsity)
    missing = sorted(set(names) - set(sparsity))
    if missing:
        raise PruningError(f"networks names {missing}, for which sparsity holds no number: it has {sorted(sparsity)}.")
    return {name: sparsity[name] for name in names}


def check_criterion(model: BaseAlgorithm, criterion: Any) -> None:
    """:raises PruningError: the criterion needs a gradient, and the algorithm has none."""
    policy = unwrap(model.policy)
    _check_gradient(policy, criterion, describe(policy).losses)


def _check_gradient(policy: BasePolicy, criterion: Any, losses: Mapping[str, Objective | None]) -> None:
    if None in losses.values() and isinstance(criterion, str) and criterion not in GRADIENT_FREE:
        raise PruningError(
            f"{type(policy).__name__} is trained without a gradient, and criterion={criterion!r} needs one: use "
            f"{', '.join(map(repr, GRADIENT_FREE))}, or give loss=."
        )


def _check_numbers(gamma: Any, ent_coef: Any) -> None:
    for name, value, highest in (("gamma", gamma, 1.0), ("ent_coef", ent_coef, math.inf)):
        number = isinstance(value, Real) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= float(value) <= highest and math.isfinite(float(value))):
            raise PruningError(f"{name}={value!r} must be a number{' in [0, 1]' if highest == 1 else ' of at least 0'}.")


def _losses(policy: BasePolicy, parts: PolicyNetworks, loss: Loss | Mapping[str, Loss] | None) -> dict[str, Objective | None]:
    for name, function in (loss if isinstance(loss, Mapping) else {"": loss}).items():
        check_callable(f"loss of {name}" if name else "loss", function, "a function of (policy, batch), or one by network")
    losses = dict(parts.losses)
    given = loss if isinstance(loss, Mapping) else dict.fromkeys(losses, loss) if loss is not None else {}
    unknown = sorted(set(given) - set(losses))
    if unknown:
        raise PruningError(f"loss names {unknown}, but this policy has {sorted(losses)}.")
    return losses | {name: lambda batch, own=own: own(policy, batch) for name, own in given.items()}
