"""Pruning a Stable-Baselines3 agent, or a bare policy in a loop of one's own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium.vector.utils import create_empty_array
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.plan import TRACE_BATCH, PruningPlan, Settings, Target, make_plan, trace
from rl_crop.core.report import PruningReport
from rl_crop.core.rng import eval_mode, isolated_rng
from rl_crop.core.steps import apply_steps, step_targets
from rl_crop.core.subject import Copy, Network, Subject, make_run
from rl_crop.core.surgery import Transaction
from rl_crop.core.units import named_tensors
from rl_crop.sb3.adapters import Objective, PolicyNetworks, describe
from rl_crop.sb3.attributes import rewrite_sizes
from rl_crop.sb3.data import BATCH_SIZE, N_BATCHES, agent_batches, as_samples

Loss = Callable[[Any, Any], th.Tensor]


def plan_policy_pruning(
    model_or_policy: BaseAlgorithm | BasePolicy,
    sparsity: Target,
    *,
    networks: Sequence[str] | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss | Mapping[str, Loss] | None = None,
    gamma: float = 0.99,
    ent_coef: float | None = None,
    optimizers: Sequence[th.optim.Optimizer] | None = None,
    mirrors: Sequence[BasePolicy] | None = None,
    n_batches: int = N_BATCHES,
    batch_size: int = BATCH_SIZE,
    **settings: Any,
) -> PruningPlan:
    """
    Score, rank and allocate the units of an agent's networks; changes nothing.

    Where an algorithm has no data, a rollout is collected, which moves its environment on.

    :param model_or_policy: an SB3 algorithm, or a bare SB3 policy (then give ``batches``).
    :param sparsity: share of each network's prunable parameters to remove, in [0, 1): one number, or by network
        (``"actor"``, ``"critic"``); networks not named stay whole.
    :param networks: with one number, the networks it applies to (all by default).
    :param batches: SB3 ``RolloutBufferSamples`` or ``ReplayBufferSamples``, mappings with those fields, or observations,
        normalised as the policy sees them. An algorithm's own data by default.
    :param loss: replaces the objective: ``callable(policy, batch)``, or one by network.
    :param gamma: discount factor, for a bare policy.
    :param ent_coef: weight of the entropy, for a bare policy (0 by default).
    :param optimizers: whose state is cut along; by default the algorithm's, or the policy's own.
    :param mirrors: further policies of the same class and shape, cut at the same indices.
    :param n_batches: number of scoring batches taken from the algorithm's data.
    :param batch_size: transitions in each.
    :param settings: see :class:`~rl_crop.core.plan.Settings`.
    :return: the plan.
    :raises PruningError: the agent, its data or the arguments do not allow it; says what to do.
    """
    chosen = Settings(**settings)
    model = model_or_policy if isinstance(model_or_policy, BaseAlgorithm) else None
    policy = unwrap(model_or_policy if model is None else model.policy)
    if model is not None:
        gamma = getattr(model, "gamma", gamma)
        ent_coef = _entropy_coefficient(model) if ent_coef is None else ent_coef
    parts = describe(policy, gamma, ent_coef or 0.0, getattr(model, "vf_coef", 0.5))
    targets = _targets(sparsity, networks, list(parts.modules))
    if batches is None and model is not None and needs_data(chosen):
        batches = agent_batches(model, n_batches, batch_size, chosen.seed or 0)
    samples = [as_samples(batch) for batch in batches or ()]
    losses = _losses(policy, parts, loss)
    subject = _subject(policy, parts, samples, losses, mirrors or (), optimizers, model)
    return make_plan(subject, targets if targets is not None else sparsity, chosen)


def prune_policy(
    model_or_policy: BaseAlgorithm | BasePolicy, sparsity: Target, *, schedule: str = "one_shot", **keywords: Any
) -> PruningReport:
    """
    Plan and apply; see :func:`plan_policy_pruning` for the other arguments.

    :param schedule: ``"one_shot"``, or ``"iterative"``: in seven steps, scored anew at each on the same data.
    The event is added to ``model.pruning_history``, which travels in the saved zip.

    :return: the report. Networks, targets and optimizer state have been cut in place.
    :raises PruningError: nothing was changed.
    """
    targets = step_targets(sparsity, schedule)
    report = apply_steps(lambda target: plan_policy_pruning(model_or_policy, target, **keywords), targets)
    if isinstance(model_or_policy, BaseAlgorithm):
        remember(model_or_policy, report, source="prune_policy")
    return report


def remember(model: BaseAlgorithm, report: PruningReport, **facts: Any) -> None:
    """Add an event to ``model.pruning_history``, a plain list of plain dictionaries."""
    entry = {"timesteps": int(model.num_timesteps), **facts, **report.to_dict()}
    model.pruning_history = [*getattr(model, "pruning_history", []), entry]  # type: ignore[attr-defined]


def prunable_parameters(model: BaseAlgorithm) -> dict[str, list[th.Tensor]]:
    """:return: by network, the parameters in which its units lie (targets not counted)."""
    policy = unwrap(model.policy)
    parts = describe(policy, 0.0, 0.0)
    subject = _subject(policy, parts, (), parts.losses, (), None, model)
    graph = trace(subject)
    sliced = {slot.tensor for group in graph.groups.values() for slot in group.slots}
    found = {net.name: [subject.trained.tensors[name] for name in sorted(net.parameters & sliced)] for net in subject.networks}
    return {name: tensors for name, tensors in found.items() if tensors}


def unwrap(policy: Any) -> BasePolicy:
    """:return: the policy itself, out of a ``torch.compile`` wrapper."""
    policy = getattr(policy, "_orig_mod", policy)
    if not isinstance(policy, BasePolicy):
        raise PruningError(f"Expected a Stable-Baselines3 algorithm or policy, not {type(policy).__name__}.")
    return policy


def algorithm_optimizers(model: BaseAlgorithm) -> list[th.optim.Optimizer]:
    """:return: every optimizer that the algorithm saves, found by the attribute paths it saves them under."""
    found = []
    for path in model._get_torch_save_params()[0]:
        owner: Any = model
        for name in path.split("."):
            owner = getattr(owner, name)
        if isinstance(owner, th.optim.Optimizer):
            found.append(owner)
    return found


def _targets(sparsity: Target, networks: Sequence[str] | None, known: list[str]) -> dict[str, float] | None:
    """Sparsity by network, or ``None`` where one number is meant for all."""
    named = list(sparsity) if isinstance(sparsity, Mapping) else list(networks or ())
    unknown = sorted(set(named) - set(known))
    if unknown:
        raise PruningError(f"Unknown networks {unknown}: this policy has {known}.")
    if isinstance(sparsity, Mapping):
        return {name: share for name, share in sparsity.items() if networks is None or name in networks}
    return None if networks is None else dict.fromkeys(networks, sparsity)


def needs_data(settings: Settings) -> bool:
    """:return: whether a plan with these settings looks at data."""
    free = settings.criterion in ("magnitude", "random", "synflow")
    return not (free and settings.compensation == "none")


def _entropy_coefficient(model: Any) -> float:
    if getattr(model, "log_ent_coef", None) is not None:
        return float(th.exp(model.log_ent_coef.detach()))
    if getattr(model, "ent_coef_tensor", None) is not None:
        return float(model.ent_coef_tensor)
    return float(getattr(model, "ent_coef", 0.0))


def _losses(policy: BasePolicy, parts: PolicyNetworks, loss: Loss | Mapping[str, Loss] | None) -> dict[str, Objective]:
    losses = dict(parts.losses)
    given = loss if isinstance(loss, Mapping) else dict.fromkeys(losses, loss) if loss is not None else {}
    unknown = sorted(set(given) - set(losses))
    if unknown:
        raise PruningError(f"loss names {unknown}, but this policy has {sorted(losses)}.")
    return losses | {name: lambda batch, own=own: own(policy, batch) for name, own in given.items()}  # type: ignore[misc]


def _observations(policy: BasePolicy, samples: Sequence[Any]) -> tuple[Any, Any] | None:
    """Observations of all batches, copied to the policy's device, and actions where there are any."""
    if not samples:
        return None

    def joined(values: list[Any]) -> Any:
        tensors = [obs_as_tensor(value, policy.device) if not isinstance(value, th.Tensor) else value for value in values]
        if isinstance(tensors[0], Mapping):
            return {key: th.cat([tensor[key] for tensor in tensors]).clone() for key in tensors[0]}
        return th.cat(tensors).detach().clone()

    actions = [getattr(batch, "actions", None) for batch in samples]
    return joined([batch.observations for batch in samples]), None if actions[0] is None else joined(actions)


def _example(policy: BasePolicy) -> Any:
    """Two observations of zeros, where there is no data: only their shape matters."""
    return obs_as_tensor(create_empty_array(policy.observation_space, n=TRACE_BATCH, fn=np.zeros), policy.device)  # type: ignore[arg-type]


def _subject(
    policy: BasePolicy,
    parts: PolicyNetworks,
    samples: Sequence[Any],
    losses: Mapping[str, Objective],
    mirrors: Sequence[BasePolicy],
    optimizers: Sequence[th.optim.Optimizer] | None,
    model: BaseAlgorithm | None,
) -> Subject:
    followers = {id(tensor) for _, target, _ in parts.targets.values() for tensor in named_tensors(target).values()}
    tensors = {name: tensor for name, tensor in named_tensors(policy).items() if id(tensor) not in followers}
    names = {id(tensor): name for name, tensor in tensors.items()}
    data = _observations(policy, samples)
    with isolated_rng(0), eval_mode(policy), th.no_grad():
        observations, actions = data if data is not None else (_example(policy), None)
        if actions is None and parts.targets:  # critics of actions, where the batches hold none: the policy's own
            actions = policy._predict(observations, deterministic=True)
    networks = tuple(
        Network(name, frozenset(names[id(p)] for module in modules for p in _parameters(module)), losses[name], samples)
        for name, modules in parts.modules.items()
    )
    copies = []
    for name, (module, target, forward) in parts.targets.items():
        own = dict(target.named_parameters()) | dict(target.named_buffers())
        mirrored = {names[id(tensor)]: own[key] for key, tensor in named_tensors(module).items()}
        copies.append(Copy(mirrored, {name: make_run(forward, (observations, actions))}, (target,)))
    for mirror in mirrors:
        own = named_tensors(mirror)
        if type(mirror) is not type(policy) or any(name not in own for name in tensors):
            raise PruningError("A mirror must be a policy of the same class and structure as the one that is pruned.")
        forwards = describe(mirror, 0.0, 0.0).forwards
        runs = {name: make_run(forward, (observations, actions)) for name, forward in forwards.items()}
        copies.append(Copy({name: own[name] for name in tensors}, runs, (mirror,)))
    whole = [name for name, module in policy.named_modules() if module in parts.whole]

    def after_cut(transaction: Transaction) -> None:
        rewrite_sizes(transaction, policy, model)
        for mirror in mirrors:
            rewrite_sizes(transaction, mirror, None)

    if optimizers is None:
        optimizers = algorithm_optimizers(model) if model is not None else _own_optimizers(policy)
    runs = {name: make_run(forward, (observations, actions)) for name, forward in parts.forwards.items()}
    return Subject(
        policy,
        networks,
        Copy(tensors, runs, (policy,)),
        tuple(copies),
        data is not None,
        ties=tuple(parts.ties),
        whole=tuple(whole),
        optimizers=tuple(optimizers),
        after_cut=after_cut,
    )


def _parameters(part: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return list(part.parameters()) if isinstance(part, nn.Module) else [part]


def _own_optimizers(policy: BasePolicy) -> list[th.optim.Optimizer]:
    found = [getattr(part, "optimizer", None) for part in policy.modules()]
    return [optimizer for optimizer in found if isinstance(optimizer, th.optim.Optimizer)]
