"""What must hold of an agent: nothing changed, or everything agrees with its new shape; each check raises what it finds."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

PLAIN = (bool, int, float, str, type, type(None))
NOISE = ("latent_sde_dim", "exploration_mat", "exploration_matrices")
"""What a distribution draws before it is used."""


class CheckError(AssertionError):
    """The agent is not as it must be."""


def check(holds: bool, message: str) -> None:
    """:raises CheckError: it does not hold."""
    if not holds:
        raise CheckError(message)


def state(agent: BaseAlgorithm | BasePolicy) -> dict[str, Any]:
    """
    Everything that a refused pruning must leave alone, copied.

    :param agent: an algorithm, or a bare policy.
    :return: by name: tensors, gradients and buffers of every network and what its modules keep beside them, optimizer state,
        exploration noise, arguments, history and counters of the algorithm.
    """
    policy = agent.policy if isinstance(agent, BaseAlgorithm) else agent
    found: dict[str, Any] = {}
    for name, module in policy.named_modules():
        found |= {f"{name}.{key}": _copied(value) for key, value in vars(module).items() if not key.endswith("_hooks")}
        for key in NOISE:
            found[f"{name}.{key}"] = _copied(getattr(getattr(module, "action_dist", None), key, None))
    for name, parameter in policy.named_parameters():
        found[f"{name}.identity"], found[f"{name}.grad"] = id(parameter), _copied(parameter.grad)
    for place, optimizer in enumerate(optimizers_of(agent)):
        found[f"optimizer {place}"] = _copied(list(optimizer.state.values()))
        found[f"optimizer {place} parameters"] = [id(p) for group in optimizer.param_groups for p in group["params"]]
    if isinstance(agent, BaseAlgorithm):
        names = ("policy_kwargs", "pruning_history", "num_timesteps", "weights", "n_params", "log_ent_coef", "_n_updates")
        found |= {name: _copied(getattr(agent, name, None)) for name in names}
        found["action_space"] = _copied(agent.action_space.np_random.bit_generator.state)
    return found


def generators() -> dict[str, Any]:
    """:return: the state of every global generator."""
    return {"python": random.getstate(), "numpy": _copied(np.random.get_state()), "torch": _copied(th.get_rng_state())}


def check_same(before: Mapping[str, Any], after: Mapping[str, Any], what: str) -> None:
    """:raises CheckError: two states differ; names the first few differences."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    check(not names, f"{what} changed {names[:5]}")


def check_same_objects(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """:raises CheckError: a parameter is another object than before, or optimizers hold other ones: it would not train on."""
    kept = [{name: state[name] for name in state if name.endswith((".identity", " parameters"))} for state in (before, after)]
    check_same(kept[0], kept[1], "pruning replaced objects and")


def _copied(value: Any) -> Any:
    """Plain values as they are, tensors and arrays by shape and bytes (NaN equals NaN), other objects by identity."""
    if isinstance(value, th.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype), value.tobytes()
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    return value if isinstance(value, PLAIN) else id(value)


def optimizers_of(agent: BaseAlgorithm | BasePolicy) -> list[th.optim.Optimizer]:
    """:return: every optimizer that an algorithm, its policy or the policy's networks hold, each once."""
    policy = agent.policy if isinstance(agent, BaseAlgorithm) else agent
    owners = [agent, *policy.modules()]
    found = [value for owner in owners for value in vars(owner).values() if isinstance(value, th.optim.Optimizer)]
    return list({id(optimizer): optimizer for optimizer in found}.values())


def check_consistent(agent: BaseAlgorithm | BasePolicy) -> None:
    """:raises CheckError: optimizer state, a target network or a size kept by a layer does not fit the parameters."""
    policy = agent.policy if isinstance(agent, BaseAlgorithm) else agent
    for optimizer in optimizers_of(agent):
        for parameter, slot in optimizer.state.items():
            for key, value in slot.items():
                fits = not isinstance(value, th.Tensor) or value.dim() == 0 or value.shape == parameter.shape
                check(fits, f"optimizer state {key} has another shape than its parameter {tuple(parameter.shape)}")
    for name, module in policy.named_modules():
        shape = tuple(getattr(module, "weight", th.empty(0)).shape)
        stated = _stated_shape(module)
        check(stated is None or stated == shape, f"{name} states the sizes {stated}, but its weight has {shape}")
    for name in ("actor", "critic", "q_net", "quantile_net"):
        online, target = getattr(policy, name, None), getattr(policy, f"{name}_target", None)
        if isinstance(online, nn.Module) and isinstance(target, nn.Module):
            shapes = [{key: tuple(value.shape) for key, value in net.state_dict().items()} for net in (online, target)]
            check(shapes[0] == shapes[1], f"{name} and its target have different shapes")


def _stated_shape(module: nn.Module) -> tuple[int, ...] | None:
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, nn.Conv2d):
        return module.out_channels, module.in_channels // module.groups, *module.kernel_size
    if isinstance(module, nn.LayerNorm):
        return tuple(module.normalized_shape)
    if isinstance(module, nn.BatchNorm2d):
        return (module.num_features,)
    return None


def check_finite(agent: BaseAlgorithm | BasePolicy) -> None:
    """:raises CheckError: a parameter or buffer is not finite."""
    policy = agent.policy if isinstance(agent, BaseAlgorithm) else agent
    bad = [name for name, value in policy.state_dict().items() if not bool(th.isfinite(value).all())]
    check(not bad, f"{bad[:5]} are not finite")


@contextmanager
def moving(agent: BaseAlgorithm | BasePolicy, smallest: float = 1e-4) -> Iterator[None]:
    """
    Whatever gets a gradient while the block trains must move.

    :param agent: whose optimizers are watched.
    :param smallest: gradients below it do not count: one step could be lost in rounding.
    :raises CheckError: a parameter had a gradient at a step and is as it was.
    """
    expected: dict[int, tuple[str, th.Tensor, th.Tensor]] = {}
    policy = agent.policy if isinstance(agent, BaseAlgorithm) else agent
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    steps = 0

    def before_step(optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        nonlocal steps
        steps += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in expected and parameter.grad is not None and parameter.grad.abs().max() > smallest:
                    name = names.get(id(parameter), "a parameter outside the policy")
                    expected[id(parameter)] = (name, parameter, parameter.detach().clone())

    optimizers = optimizers_of(agent)
    handles = [optimizer.register_step_pre_hook(before_step) for optimizer in optimizers]
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    still = [name for name, parameter, old in expected.values() if th.equal(parameter, old)]
    check(not still, f"{still[:5]} had a gradient and did not move")
    check(steps > 0 or not optimizers, "no optimizer took a step")
    if not optimizers:  # random search moves all parameters at once, where candidates differ
        moved = any(not th.equal(old, new) for old, new in zip(before, policy.parameters(), strict=True))
        check(moved, "nothing moved")
