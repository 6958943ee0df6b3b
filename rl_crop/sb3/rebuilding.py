"""
Whether a cut agent's zip loads: the policy that ``load`` would build is built, and its state compared shape by shape.

Policies whose class sets its own widths, or whose heads have layers of their own, cannot be built from ``net_arch``. Such an
agent names :class:`PrunedPolicy` as its policy class, which needs this package where the agent is loaded.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import recursive_getattr
from torch import nn

from rl_crop.core.errors import PruningError, lacks_memory
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.core.rng import isolated_rng
from rl_crop.sb3.adapters import describe
from rl_crop.sb3.attributes import rewrite_sizes, rewrite_widths
from rl_crop.sb3.extractors import Shapes, correct_readers, differing, resize
from rl_crop.sb3.networks import PolicyNetworks


class PrunedPolicy:
    """
    A policy class that builds another policy with other shapes; what it returns is an instance of that other class.

    :param observation_space: the space of the observations, as Stable-Baselines3 gives it.
    :param action_space: the space of the actions.
    :param args: further arguments of Stable-Baselines3, such as the schedule of the learning rate.
    :param policy: the policy's class.
    :param shapes: what differs from what the class builds; no axis may be longer.
    :param policy_kwargs: keyword arguments of the class.
    :param more: keyword arguments of Stable-Baselines3.
    :raises PruningError: the shapes do not fit what the class builds.
    """

    def __new__(  # type: ignore[misc]
        cls,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *args: Any,
        policy: type[BasePolicy],
        shapes: Shapes,
        policy_kwargs: Mapping[str, Any],
        **more: Any,
    ) -> BasePolicy:
        built = policy(observation_space, action_space, *args, **{**more, **policy_kwargs})
        with Transaction() as transaction:
            resize(transaction, built, shapes)
            parts = describe(built)
            rewrite_widths(transaction, parts)
            correct_readers(transaction, built, parts.extractors)
        return built


State = dict[str, Any]
"""What a zip holds of an agent's tensors, as shapes by name."""


def state_shapes(model: BaseAlgorithm) -> State:
    """:return: the shapes of everything that :meth:`BaseAlgorithm.load` puts back into what it builds."""
    found: State = {}
    for path in model._get_torch_save_params()[0]:
        part = recursive_getattr(model, path)
        if isinstance(part, th.optim.Optimizer):
            found[path] = [[tuple(parameter.shape) for parameter in group["params"]] for group in part.param_groups]
        else:
            state = part.state_dict().items()
            found |= {f"{path}.{name}": tuple(value.shape) for name, value in state if isinstance(value, th.Tensor)}
    return found | {name: tuple(buffer.shape) for name, buffer in _unsaved(model.policy)}


def _unsaved(policy: nn.Module) -> Iterator[tuple[str, th.Tensor]]:
    """Buffers that a state dict leaves out, by name."""
    for path, module in policy.named_modules():
        for name in module._non_persistent_buffers_set:
            if module._buffers.get(name) is not None:
                yield f"policy.{path}.{name}", module._buffers[name]


def as_loaded(model: BaseAlgorithm, policy_class: Any, policy_kwargs: Mapping[str, Any]) -> BaseAlgorithm:
    """
    :param model: an agent; it stays as it is.
    :param policy_class: that its zip would name.
    :param policy_kwargs: those that its zip would hold; copied, because building may change what is handed over in them.
    :return: another agent, as ``load`` sets it up before it puts the saved tensors back.
    """
    built = copy.copy(model)
    vars(built).update(
        policy_class=policy_class, policy_kwargs=copy.deepcopy(dict(policy_kwargs)), seed=None,
        action_space=copy.deepcopy(model.action_space), observation_space=copy.deepcopy(model.observation_space),
    )  # fmt: skip
    if getattr(built, "replay_buffer", 0) is None:  # nothing is to be allocated
        vars(built)["replay_buffer"] = ()
    with isolated_rng(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built._setup_model()
    return built


def why_not_loaded(model: BaseAlgorithm, before: State, policy_class: Any = None, policy_kwargs: Any = None) -> str:
    """
    :param model: an agent.
    :param before: its state before it was cut: what has been cut must be built with the values that were kept.
    :param policy_class: that its zip would name; the agent's own by default.
    :param policy_kwargs: those that its zip would hold.
    :return: why its zip would not load, or not as the same agent; ``""`` where it would.
    :raises MemoryError: or torch's own: there is too little memory to build the policy, which answers nothing.
    """
    own = policy_class is None
    try:
        built = as_loaded(model, model.policy_class if own else policy_class, model.policy_kwargs if own else policy_kwargs)
        theirs = state_shapes(built)
    except Exception as error:
        if lacks_memory(error):
            raise
        return f"{type(error).__name__}: {error}"
    ours = state_shapes(model) if own else before
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            return f"{name} has the shape {ours.get(name)}, and the policy that load builds {theirs.get(name)}"
    values = dict(_unsaved(built.policy))
    changed = [name for name, buffer in _unsaved(model.policy) if own and ours[name] != before.get(name)]
    lost = [name for name, buffer in _unsaved(model.policy) if name in changed and not th.equal(buffer, values[name])]
    return f"{lost[0]} is not saved (persistent=False), and would be built with other values" if lost else ""


def describe_cut(
    transaction: Transaction, policy: BasePolicy, parts: PolicyNetworks, model: BaseAlgorithm | None, before: State
) -> tuple[str, ...]:
    """
    Bring every stored size in line with the parameters, so that the agent's zip loads.

    :param transaction: remembers every change.
    :param policy: the cut policy.
    :param parts: its networks.
    :param model: the algorithm that holds it, if any.
    :param before: the algorithm's state before the cut.
    :return: notes for the report.
    :raises PruningError: the zip would load no longer.
    """
    dense = () if model is None else (model.policy_class, model.policy_kwargs)
    rewrite_sizes(transaction, policy, parts, model)
    if model is None or state_shapes(model) == before or not why_not_loaded(model, before):
        return ()
    why = _describe_shapes(transaction, model, before, *dense)
    if not why:
        return (f"{type(policy).__name__} cannot be built from net_arch: this package must be there where its zip is loaded",)
    if why_not_loaded(model, before, *dense):  # nothing is lost
        for name, value in zip(("policy_class", "policy_kwargs"), dense, strict=True):
            transaction.set_attribute(model, name, value)
        return (f"the zip of this agent does not load, cut or not: {why}",)
    raise PruningError(
        f"{type(policy).__name__} is left whole: the zip of the cut agent would not load ({why}). Its class must build what "
        f"its arguments say; ignore= leaves modules whole. Nothing was changed."
    )


def _describe_shapes(transaction: Transaction, model: BaseAlgorithm, before: State, kind: Any, kwargs: Any) -> str:
    """:return: why an agent that names :class:`PrunedPolicy` would not load, or ``""``."""
    inner, inner_kwargs = (kwargs["policy"], kwargs["policy_kwargs"]) if kind is PrunedPolicy else (kind, kwargs)
    try:
        shapes = differing(model.policy, as_loaded(model, inner, inner_kwargs).policy)
    except Exception as error:
        if lacks_memory(error):
            raise
        return f"{type(error).__name__}: {error}"
    stated = {"policy": inner, "shapes": shapes, "policy_kwargs": inner_kwargs}
    transaction.set_attribute(model, "policy_class", PrunedPolicy)
    transaction.set_attribute(model, "policy_kwargs", stated)
    return why_not_loaded(model, before)
