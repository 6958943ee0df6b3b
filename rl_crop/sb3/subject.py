"""A policy as the core sees it: parameters, runs on stored observations, targets and optimizers that are cut along."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.model import Copy, Network, Run, Subject, make_run, mapped
from rl_crop.core.pruning.plan import TRACE_BATCH
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.core.rng import eval_mode, isolated_rng
from rl_crop.sb3.adapters import describe
from rl_crop.sb3.attributes import rewrite_sizes
from rl_crop.sb3.batches import as_samples
from rl_crop.sb3.extractors import example_observations
from rl_crop.sb3.networks import Forward, Objective, PolicyNetworks


def policy_subject(
    policy: BasePolicy,
    parts: PolicyNetworks,
    samples: Sequence[Any],
    losses: Mapping[str, Objective | None],
    mirrors: Sequence[BasePolicy],
    optimizers: Sequence[th.optim.Optimizer] | None,
    model: BaseAlgorithm | None,
) -> Subject:
    """
    :param policy: the policy.
    :param parts: its networks.
    :param samples: scoring batches; their observations are copied.
    :param losses: objective by network.
    :param mirrors: further policies of the same class and structure.
    :param optimizers: beside those of the algorithm, the policy and the mirrors, which are always cut along.
    :param model: the algorithm that holds the policy, if any.
    :return: what the core plans and cuts.
    :raises PruningError: a mirror is of another structure.
    """
    followers = {id(tensor) for _, target, _ in parts.targets for tensor in named_tensors(target).values()}
    tensors = {name: tensor for name, tensor in named_tensors(policy).items() if id(tensor) not in followers}
    names = {id(tensor): name for name, tensor in tensors.items()}
    data = _observations(policy, samples)
    if data is None:
        zeros = example_observations(policy.observation_space, policy.device)
        data = parts.prepare(as_samples(zeros, policy.device)).observations, None
    observations, actions = data
    with isolated_rng(0), eval_mode(policy), th.no_grad():
        if actions is None and parts.needs_actions:  # where the batches hold none: the policy's own
            actions = policy._predict(observations, deterministic=True)
    inputs = (observations, actions)
    networks = tuple(
        Network(name, frozenset(names[id(p)] for module in modules for p in _parameters(module)), losses[name], samples)
        for name, modules in parts.modules.items()
    )
    _check_description(policy, parts, inputs)
    copies = _targets(parts, names, inputs)
    mirrored: list[tuple[BasePolicy, PolicyNetworks]] = []
    for mirror in mirrors:
        own = named_tensors(mirror)
        if type(mirror) is not type(policy) or any(
            name not in own or own[name].shape != tensor.shape for name, tensor in tensors.items()
        ):
            raise PruningError("A mirror must be a policy of the same class and structure as the one that is pruned.")
        mirror_parts = describe(mirror)
        mirrored.append((mirror, mirror_parts))
        copies.append(Copy({name: own[name] for name in tensors}, _runs(mirror_parts.forwards, inputs), (mirror,)))
        copies += _targets(mirror_parts, {id(own[name]): name for name in tensors}, inputs)
    whole = {name: parts.whole[module] for name, module in policy.named_modules() if module in parts.whole}

    noise = parts.noise  # its log_std has a row for every latent feature
    noise_ties = [] if noise is None else [((names[id(noise.head.weight)], 1), (names[id(noise.log_std)], 0))]

    def before_cut() -> Callable[[Transaction], None]:
        described = [parts, *(of_mirror for _, of_mirror in mirrored)]
        restores = [each.noise.measure(_runs(each.forwards[:1], inputs)) for each in described if each.noise is not None]

        def restore(transaction: Transaction) -> None:
            for restore_noise in restores:
                restore_noise(transaction)

        return restore

    def after_cut(transaction: Transaction) -> None:
        rewrite_sizes(transaction, policy, parts, model)
        _check_description(policy, parts, inputs)
        for mirror, mirror_parts in mirrored:
            rewrite_sizes(transaction, mirror, mirror_parts, None)

    found = [*(algorithm_optimizers(model) if model is not None else ()), *(optimizers or ())]
    found += [optimizer for owner in (policy, *mirrors) for optimizer in own_optimizers(owner)]
    return Subject(
        root=policy,
        networks=networks,
        trained=Copy(tensors, _runs(parts.forwards, inputs), (policy,)),
        mirrors=tuple(copies),
        has_observations=bool(samples),
        pinned={why: make_run(forward, inputs) for why, forward in parts.pinned.items()},
        ties=(*parts.ties, *noise_ties),
        unscored=frozenset(log_std for _, (log_std, _) in noise_ties),
        whole=whole,
        one_vector=parts.one_vector,
        contrasts=isinstance(policy.action_space, spaces.Discrete),
        optimizers=tuple({id(optimizer): optimizer for optimizer in found}.values()),
        before_cut=before_cut,
        after_cut=after_cut,
    )


def _check_description(policy: BasePolicy, parts: PolicyNetworks, inputs: tuple[Any, Any]) -> None:
    """:raises PruningError: a policy of a user's own does not compute what its class does, so what is cut would not fit it."""
    with isolated_rng(0), eval_mode(policy), th.no_grad():
        for what, functions in parts.own.items():
            theirs, described = (make_run(function, inputs)(TRACE_BATCH).double() for function in functions)
            if theirs.shape != described.shape or not th.allclose(theirs, described, rtol=1e-3, atol=1e-4, equal_nan=True):
                raise PruningError(
                    f"{type(policy).__name__} is not supported: it computes its {what} in another way than the policy of "
                    f"Stable-Baselines3 that it is derived from. Nothing was changed."
                )


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


def _runs(forwards: Sequence[Forward], inputs: tuple[Any, Any]) -> list[Run]:
    return [make_run(forward, inputs) for forward in forwards]


def _targets(parts: PolicyNetworks, names: Mapping[int, str], inputs: tuple[Any, Any]) -> list[Copy]:
    """The target networks of one policy as one copy (they can share an extractor), under the names of what they follow."""
    if not parts.targets:
        return []
    mirrored: dict[str, th.Tensor] = {}
    for module, target, _ in parts.targets:
        own = named_tensors(target)
        mirrored |= {names[id(tensor)]: own[key] for key, tensor in named_tensors(module).items()}
    return [Copy(mirrored, _runs([run for *_, run in parts.targets], inputs), tuple(target for _, target, _ in parts.targets))]


def _observations(policy: BasePolicy, samples: Sequence[Any]) -> tuple[Any, Any] | None:
    """Observations of all batches, copied to the policy's device, and actions where there are any."""
    if not samples:
        return None

    def joined(*values: Any) -> th.Tensor:
        return th.cat([value.to(policy.device) for value in values]).detach().clone()

    actions = [getattr(batch, "actions", None) for batch in samples]
    missing = any(action is None for action in actions)
    return mapped(joined, *(batch.observations for batch in samples)), None if missing else joined(*actions)


def _parameters(part: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return list(part.parameters()) if isinstance(part, nn.Module) else [part]


def own_optimizers(policy: BasePolicy) -> list[th.optim.Optimizer]:
    """:return: every optimizer that the policy's modules hold."""
    found = [getattr(part, "optimizer", None) for part in policy.modules()]
    return [optimizer for optimizer in found if isinstance(optimizer, th.optim.Optimizer)]
