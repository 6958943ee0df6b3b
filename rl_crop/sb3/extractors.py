"""
Features extractors smaller than their class builds them, described so that Stable-Baselines3 can build them again.

Stable-Baselines3 makes an extractor from its class and keyword arguments alone, and most classes have no argument for the
width of a layer. A pruned agent names :class:`PrunedExtractor` instead, which needs this package where the agent is loaded.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import get_parameters_by_name, obs_as_tensor
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.pruning.surgery import Transaction, select, update_sizes
from rl_crop.core.rng import isolated_rng, undisturbed
from rl_crop.sb3.observations import N_EXAMPLES, example_observations, sampled

FEATURES_DIM = "features_dim"

Shapes = Mapping[str, Any]
"""
What a module differs in from what its class builds: by the name of a parameter or buffer, its shape as a list, or (of a
buffer that a state dict leaves out) its values as nested tuples; by the name of an attribute ``features_dim``, its value.
"""


class ShapesInTurn:
    """
    Shapes of several extractors that one policy builds from the same keyword arguments, one after the other.

    Each construction takes the next entry; the one after the last takes the first again. A copy, pickled or deep, starts at
    the first. Nothing tells a construction which network it is for, so the order and number must be those of the policy: a
    policy whose construction fails between two extractors leaves the turn where it is.

    :param shapes: one entry an extractor, in order of construction.
    """

    def __init__(self, shapes: Sequence[Shapes]) -> None:
        self.shapes = list(shapes)
        self._taken = 0

    def take(self) -> Shapes:
        """:return: the shapes of the extractor that is being built."""
        shapes = self.shapes[self._taken % len(self.shapes)]
        self._taken += 1
        return shapes

    def restart(self) -> None:
        """Begin with the first entry again."""
        self._taken = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.shapes,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShapesInTurn) and self.shapes == other.shapes

    __hash__ = None  # type: ignore[assignment]  # it is mutable

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shapes!r})"


class PrunedExtractor(BaseFeaturesExtractor):
    """
    A ``features_extractor_class`` that builds another extractor with other shapes.

    What it returns is an instance of that other class, so that its state dict and whatever asks for its type stay the same.

    :param observation_space: the space of the observations, as Stable-Baselines3 gives it.
    :param extractor: the extractor's class.
    :param shapes: the shapes that differ from what the class builds; no axis may be longer.
    :param extractor_kwargs: further keyword arguments of the class.
    :raises PruningError: the shapes do not fit what the class builds.
    """

    def __new__(
        cls,
        observation_space: spaces.Space,
        extractor: type[nn.Module],
        shapes: Shapes | ShapesInTurn,
        extractor_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        turn = shapes if isinstance(shapes, ShapesInTurn) else ShapesInTurn([shapes])
        try:
            wanted = turn.take()
            built = extractor(observation_space, **(extractor_kwargs or {}))
            with Transaction() as transaction:
                resize(transaction, built, wanted)
                if FEATURES_DIM not in wanted:
                    correct_features_dim(transaction, built, observation_space)
        except BaseException:
            turn.restart()
            raise
        return built


def rewrite_extractors(
    transaction: Transaction, policy: BasePolicy, model: BaseAlgorithm | None, extractors: Sequence[nn.Module]
) -> None:
    """
    Describe cut features extractors in the policy's and the algorithm's arguments, and correct the sizes kept beside them.

    Where no extractor has been cut nothing changes, and the agent loads without this package.

    :param transaction: remembers every change.
    :param policy: the policy, its parameters already cut.
    :param model: the algorithm that holds it, if any.
    :param extractors: its extractors (targets included) in order of construction, each once.
    :raises PruningError: Stable-Baselines3 could not build the extractors together.
    """
    if not any(named_tensors(extractor) for extractor in extractors):
        return
    pruned = policy.features_extractor_class is PrunedExtractor
    kwargs = policy.features_extractor_kwargs
    kind, kind_kwargs = (
        (kwargs["extractor"], kwargs["extractor_kwargs"]) if pruned else (policy.features_extractor_class, kwargs)
    )
    with isolated_rng():  # copies, because a constructor may sample from the space and change what it is handed
        dense = kind(copy.deepcopy(policy.observation_space), **copy.deepcopy(kind_kwargs))
    observations = example_observations(policy, model)
    for extractor in extractors:
        correct_features_dim(transaction, extractor, policy.observation_space, observations)
    if not pruned and not any(differing(extractor, dense) for extractor in extractors):
        return
    correct_readers(transaction, policy, extractors)
    found = [differing(extractor, dense) | {FEATURES_DIM: extractor.features_dim} for extractor in extractors]
    shapes = found[0] if all(entry == found[0] for entry in found) else ShapesInTurn(found)
    if pruned and shapes == kwargs["shapes"]:
        return
    description = {
        "features_extractor_class": PrunedExtractor,
        "features_extractor_kwargs": {"extractor": kind, "shapes": shapes, "extractor_kwargs": dict(kind_kwargs)},
    }
    for name, value in description.items():
        transaction.set_attribute(policy, name, value)
    if model is not None:
        # Some policies choose another net_arch for NatureCNN than for any other class, where none is given.
        stated = {"net_arch": policy.net_arch, **model.policy_kwargs, **description}
        transaction.set_attribute(model, "policy_kwargs", stated)
        refresh_batch_norm_stats(transaction, model)


def correct_features_dim(
    transaction: Transaction, extractor: nn.Module, observation_space: spaces.Space, observations: Any = None
) -> None:
    """
    Set ``features_dim`` of an extractor, and of extractors within it, to the length of what they return.

    :param transaction: remembers every change.
    :param extractor: run once; modes, buffers and global generators stay as they are.
    :param observation_space: the space of the observations.
    :param observations: as the policy sees them; samples of the space by default.
    :raises PruningError: the extractor does not say where it keeps its ``features_dim``.
    """
    lengths: dict[nn.Module, int] = {}

    def record(module: nn.Module, inputs: Any, outputs: Any) -> None:
        lengths[module] = outputs.shape[-1]

    nested = [module for module in extractor.modules() if module is extractor or isinstance(module, BaseFeaturesExtractor)]
    hooks = [module.register_forward_hook(record) for module in nested]
    try:
        if observations is None:
            device = next((tensor.device for tensor in named_tensors(extractor).values()), th.device("cpu"))
            observations = obs_as_tensor(sampled(observation_space, N_EXAMPLES), device)
        with isolated_rng(), undisturbed(extractor), th.no_grad():
            extractor(preprocess_obs(observations, observation_space))
    finally:
        for hook in hooks:
            hook.remove()
    for module, length in lengths.items():
        _set_features_dim(transaction, module, length)


def _set_features_dim(transaction: Transaction, module: nn.Module, length: int) -> None:
    if module.features_dim != length:
        name = "_features_dim" if "_features_dim" in vars(module) else FEATURES_DIM
        if name not in vars(module):
            raise PruningError(
                f"{type(module).__name__} returns {length} features and says {module.features_dim}, which cannot be "
                f"corrected: keep the number in an attribute named _features_dim, as BaseFeaturesExtractor does."
            )
        transaction.set_attribute(module, name, length)


def refresh_batch_norm_stats(transaction: Transaction, model: BaseAlgorithm) -> None:
    """
    Look up the running statistics again that an off-policy algorithm copies from its networks to their targets.

    It keeps detached tensors, which share the memory of the buffers and so miss a change of shape.

    :param transaction: remembers every change.
    :param model: the algorithm.
    """
    for name in [name for name in vars(model) if "batch_norm_stats" in name]:
        network, _, target = name.partition("batch_norm_stats")  # such as actor_batch_norm_stats_target
        owners = [network.rstrip("_")] if network else ["critic", "q_net", "quantile_net"]
        owner = next(getattr(model, owner + target) for owner in owners if hasattr(model, owner))
        transaction.set_attribute(model, name, get_parameters_by_name(owner, ["running_"]))


def resize(transaction: Transaction, module: nn.Module, shapes: Shapes) -> None:
    """
    Give a module that its class has built the shapes of one that was cut. What is left keeps the first of the values that
    were there, unless they are stated.

    :param transaction: remembers every change.
    :param module: the module.
    :param shapes: what the cut one differed in; no axis may be longer.
    :raises PruningError: they do not fit the module.
    """
    tensors = named_tensors(module)
    stated = {name: value for name, value in shapes.items() if not isinstance(value, int)}
    for name, value in stated.items():
        shape = list(np.shape(value)) if isinstance(value, tuple) else value
        old = tuple(tensors[name].shape) if name in tensors else None
        if old is None or len(old) != len(shape) or any(new > size for new, size in zip(shape, old, strict=True)):
            raise PruningError(
                f"{type(module).__name__} builds {name!r} with the shape {old}, from which {tuple(shape)} cannot be cut: "
                f"the class is not the one that was pruned."
            )
        index = {axis: np.arange(length) for axis, length in enumerate(shape) if length < old[axis]}
        tensor = tensors[name].detach()
        data = tensor.new_tensor(value) if isinstance(value, tuple) else select(tensor, index)
        transaction.set_data(tensors[name], data)
    update_sizes(transaction, [module], [tensors[name] for name in stated])
    for name in shapes.keys() - stated.keys():
        _set_features_dim(transaction, module.get_submodule(name.removesuffix(FEATURES_DIM).rstrip(".")), shapes[name])


def differing(module: nn.Module, dense: nn.Module) -> dict[str, Any]:
    """:return: what a cut module differs in from one that its class has built; see :data:`Shapes`."""
    built = named_tensors(dense)
    unsaved = {
        f"{path}.{name}".lstrip(".") for path, part in module.named_modules() for name in part._non_persistent_buffers_set
    }
    found: dict[str, Any] = {
        name: _nested(tensor.tolist()) if name in unsaved else list(tensor.shape)
        for name, tensor in named_tensors(module).items()
        if name in built and tensor.shape != built[name].shape
    }
    parts = dict(dense.named_modules())
    for path, part in module.named_modules():
        if isinstance(part, BaseFeaturesExtractor) and part.features_dim != getattr(parts.get(path), FEATURES_DIM, None):
            found[f"{path}.{FEATURES_DIM}".lstrip(".")] = part.features_dim
    return found


def _nested(values: Any) -> Any:
    return tuple(_nested(value) for value in values) if isinstance(values, list) else values


def correct_readers(transaction: Transaction, policy: BasePolicy, extractors: Sequence[nn.Module]) -> None:
    """
    Correct the number of features where a policy and its networks keep what they receive.

    :param transaction: remembers every change.
    :param policy: the policy.
    :param extractors: its extractors.
    :raises PruningError: Stable-Baselines3 could not build the extractors together.
    """
    for module in policy.modules():
        own = getattr(module, "features_extractor", None)
        if "features_dim" in vars(module) and isinstance(own, nn.Module):
            transaction.set_attribute(module, "features_dim", own.features_dim)
    length, *others = {int(extractor.features_dim) for extractor in extractors}  # type: ignore[arg-type]
    if others and hasattr(policy, "mlp_extractor"):
        raise PruningError(
            f"The features extractors of actor and critic would return {length} and {others[0]} features, but "
            f"{type(policy).__name__} builds both networks for one number: leave the extractors' last layers whole."
        )
