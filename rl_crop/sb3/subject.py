"""A policy as the core sees it: parameters, runs on stored observations, targets and optimizers that are cut along."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.model import Copy, Network, Subject, make_run, mapped
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.core.rng import eval_mode, isolated_rng
from rl_crop.sb3.adapters import describe
from rl_crop.sb3.along import Along
from rl_crop.sb3.batches import as_samples
from rl_crop.sb3.copies import follow_sizes, followed, roles, runs, targets
from rl_crop.sb3.handed_over import handed_over
from rl_crop.sb3.held import Held, held_by, mirrors_given
from rl_crop.sb3.networks import Objective, PolicyNetworks
from rl_crop.sb3.observations import N_EXAMPLES, example_observations
from rl_crop.sb3.rebuilding import describe_cut, state_shapes

Inputs = tuple[Any, Any]
"""Observations and actions."""


def policy_subject(
    policy: BasePolicy,
    parts: PolicyNetworks,
    samples: Sequence[Any],
    losses: Mapping[str, Objective | None],
    model: BaseAlgorithm | None,
    along: Along = Along(),  # noqa: B008
) -> Subject:
    """
    :param policy: the policy.
    :param parts: its networks.
    :param samples: scoring batches; their observations are copied.
    :param losses: objective by network.
    :param model: the algorithm that holds the policy, if any.
    :param along: what else is cut along.
    :return: what the core plans and cuts.
    :raises PruningError: a mirror is of another structure.
    """
    inputs = _inputs(policy, parts, samples, model)
    _check_description(policy, parts, inputs)
    held, tensors = _around(policy, parts, model, along)
    names = {id(tensor): name for name, tensor in tensors.items()}
    trained = Copy(tensors, runs(parts.forwards, inputs), (policy,))
    copies, role = targets(parts, names, inputs), roles(parts, names)
    mirrored: list[tuple[BasePolicy, PolicyNetworks]] = []
    for follower in held.followers:
        if follower.part is policy and isinstance(follower.module, BasePolicy):
            mirror, own, mirror_parts = follower.module, named_tensors(follower.module), describe(follower.module)
            mirrored.append((mirror, mirror_parts))
            copies.append(Copy({name: own[name] for name in tensors}, runs(mirror_parts.forwards, inputs), (mirror,)))
            copies += targets(mirror_parts, {id(own[name]): name for name in tensors}, inputs)
        else:
            copies += followed(follower, policy, trained, parts.forwards, inputs, role)
    before = {} if model is None else state_shapes(model)
    noise = parts.noise  # its log_std has a row for every latent feature
    noise_ties = [] if noise is None else [((names[id(noise.head.weight)], 1), (names[id(noise.log_std)], 0))]

    def before_cut() -> Callable[[Transaction], None]:
        described = [parts, *(of_mirror for _, of_mirror in mirrored)]
        restores = [each.noise.measure(runs(each.forwards[:1], inputs)) for each in described if each.noise is not None]

        def restore(transaction: Transaction) -> None:
            for restore_noise in restores:
                restore_noise(transaction)

        return restore

    stored = {f"observations.{key}": key for key in parts.stored}

    def follow(transaction: Transaction, stays: Mapping[str, np.ndarray]) -> None:
        if parts.follow is not None and stays:
            seen = [inputs[0], *(batch.observations for batch in samples)]
            parts.follow(transaction, model, seen, {stored[name]: index for name, index in stays.items()})

    def after_cut(transaction: Transaction) -> Sequence[str]:
        notes = describe_cut(transaction, policy, parts, model, before)
        _check_description(policy, parts, inputs)
        for mirror, mirror_parts in mirrored:
            describe_cut(transaction, mirror, mirror_parts, None, {})
        for follower in held.followers:
            if follower.module is not None and follower.module not in [mirror for mirror, _ in mirrored]:
                follow_sizes(transaction, follower.part, follower.module)
        return notes

    return Subject(
        root=policy,
        networks=_networks(parts, names, losses, samples),
        trained=trained,
        mirrors=tuple(copies),
        has_observations=bool(samples),
        pinned={why: make_run(forward, inputs) for why, forward in parts.pinned.items()},
        training=tuple(runs(parts.training, inputs)),
        strangers=held.strangers,
        fixed={names[identity]: HANDED_OVER for identity in handed_over(policy, model) if identity in names},
        ties=(*parts.ties, *noise_ties),
        one_width={
            why: tuple((names[id(parameter)], axis) for parameter, axis in places) for why, places in parts.one_width.items()
        },
        stored={name: inputs[0][key] for name, key in stored.items()},
        follow=follow,
        unscored=frozenset(log_std for _, (log_std, _) in noise_ties),
        whole={name: parts.whole[module] for name, module in policy.named_modules() if module in parts.whole},
        one_vector=parts.one_vector,
        contrasts=isinstance(policy.action_space, spaces.Discrete),
        optimizers=_optimizers(held, model, policy, copies),
        before_cut=before_cut,
        after_cut=after_cut,
        notes=tuple(held.notes),
    )


HANDED_OVER = "is an object that the policy was given, which others may hold too"


def _inputs(policy: BasePolicy, parts: PolicyNetworks, samples: Sequence[Any], model: BaseAlgorithm | None) -> Inputs:
    data = _observations(policy, samples)
    if data is None:
        examples = as_samples(example_observations(policy, model), policy.device)
        data = parts.prepare(examples).observations, None
    observations, actions = data
    if actions is None and parts.act is not None:  # where the batches hold none: the policy's own
        with isolated_rng(0), eval_mode(policy), th.no_grad():
            actions = _run(policy, lambda: parts.act(observations))  # type: ignore[misc]
    return observations, actions


def _networks(
    parts: PolicyNetworks, names: Mapping[int, str], losses: Mapping[str, Objective | None], samples: Sequence[Any]
) -> tuple[Network, ...]:
    """What several networks own belongs to the first, which is that of shared features where there is one."""
    found, taken = [], frozenset[str]()
    for name, modules in parts.modules.items():
        own = frozenset(names[id(p)] for module in modules for p in _parameters(module)) - taken
        taken |= own
        found.append(Network(name, own, losses[name], samples))
    return tuple(found)


def _around(
    policy: BasePolicy, parts: PolicyNetworks, model: BaseAlgorithm | None, along: Along
) -> tuple[Held, dict[str, th.Tensor]]:
    """:return: what is held beside the networks of a policy, and the tensors that are the policy's own"""
    trained = {id(p) for modules in parts.modules.values() for module in modules for p in _tensors(module)}
    following = {id(t) for _, target, _ in parts.targets for t in named_tensors(target).values()} - trained
    beside = {
        name: child
        for name, child in policy.named_children()
        if not any(id(tensor) in trained | following for tensor in named_tensors(child).values())
    }
    candidates = [
        module
        for name, module in policy.named_modules()
        if name.partition(".")[0] not in beside
        and named_tensors(module)
        and (module is policy or not any(id(tensor) in following for tensor in named_tensors(module).values()))
    ]
    held = held_by(model, policy, candidates, beside, {*along.ignore, *along.unasked})
    mirrors_given(held, policy, candidates, along.mirrors)
    held.optimizers += along.optimizers
    followers = following | {id(tensor) for follower in held.followers for tensor in follower.tensors.values()}
    return held, {name: tensor for name, tensor in named_tensors(policy).items() if id(tensor) not in followers}


def _optimizers(
    held: Held, model: BaseAlgorithm | None, policy: BasePolicy, copies: Sequence[Copy]
) -> tuple[th.optim.Optimizer, ...]:
    """Each once: those of the algorithm, the policy and its copies, and those that are held elsewhere."""
    modules = {id(module): module for copy in copies for module in copy.modules}
    owners = [policy, *modules.values()]
    found = [*(algorithm_optimizers(model) if model is not None else ()), *held.optimizers]
    found += [optimizer for owner in owners for optimizer in own_optimizers(owner)]
    return tuple({id(optimizer): optimizer for optimizer in found}.values())


def _check_description(policy: BasePolicy, parts: PolicyNetworks, inputs: Inputs) -> None:
    """:raises PruningError: a policy of a user's own does not compute what its class does, so what is cut would not fit it."""
    with isolated_rng(0), eval_mode(policy), th.no_grad():
        for what, functions in parts.own.items():
            theirs, described = (
                _run(policy, lambda function=function: make_run(function, inputs)(N_EXAMPLES))  # type: ignore[misc]
                for function in functions
            )
            if (theirs is None) == (described is None) and (theirs is None or _agree(theirs.double(), described.double())):
                continue
            raise PruningError(
                f"{type(policy).__name__} is not supported: it computes its {what} in another way than the policy of "
                f"Stable-Baselines3 that it is derived from. Nothing was changed."
            )


def _agree(theirs: th.Tensor, described: th.Tensor) -> bool:
    return theirs.shape == described.shape and th.allclose(theirs, described, rtol=1e-3, atol=1e-4, equal_nan=True)


def _run(policy: BasePolicy, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except PruningError:
        raise
    except Exception as error:
        raise PruningError(
            f"{type(policy).__name__} does not run on the observations that are known ({type(error).__name__}: {error}): "
            f"train first, or give batches=. Nothing was changed."
        ) from error


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


def _tensors(part: nn.Module | nn.Parameter) -> list[th.Tensor]:
    return list(named_tensors(part).values()) if isinstance(part, nn.Module) else [part]


def own_optimizers(policy: nn.Module) -> list[th.optim.Optimizer]:
    """:return: every optimizer that the modules of a policy (or of a part of it) hold."""
    found = [getattr(part, "optimizer", None) for part in policy.modules()]
    return [optimizer for optimizer in found if isinstance(optimizer, th.optim.Optimizer)]
