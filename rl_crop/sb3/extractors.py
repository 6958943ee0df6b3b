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
from gymnasium.vector.utils import create_empty_array
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import get_parameters_by_name, obs_as_tensor
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.pruning.plan import TRACE_BATCH
from rl_crop.core.pruning.surgery import Transaction, select, update_sizes
from rl_crop.core.rng import isolated_rng, undisturbed

Shapes = Mapping[str, Sequence[int]]
"""Shapes of parameters and buffers by name; those not named are as their class builds them."""


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
                _resize(transaction, built, wanted)
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
    if not extractors:
        return
    pruned = policy.features_extractor_class is PrunedExtractor
    kwargs = policy.features_extractor_kwargs
    kind, kind_kwargs = (
        (kwargs["extractor"], kwargs["extractor_kwargs"]) if pruned else (policy.features_extractor_class, kwargs)
    )
    with isolated_rng():  # the space is copied because a constructor may sample from it
        dense = named_tensors(kind(copy.deepcopy(policy.observation_space), **kind_kwargs))
    found = [_differing(extractor, dense) for extractor in extractors]
    shapes = found[0] if all(entry == found[0] for entry in found) else ShapesInTurn(found)
    if shapes == (kwargs["shapes"] if pruned else {}):
        return
    for extractor in extractors:
        correct_features_dim(transaction, extractor, policy.observation_space)
    _correct_readers(transaction, policy, extractors)
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


def correct_features_dim(transaction: Transaction, extractor: nn.Module, observation_space: spaces.Space) -> None:
    """
    Set ``features_dim`` of an extractor, and of extractors within it, to the length of what they return.

    :param transaction: remembers every change.
    :param extractor: run once on observations of zeros; modes, buffers and global generators stay as they are.
    :param observation_space: the space of the observations.
    :raises PruningError: the extractor does not say where it keeps its ``features_dim``.
    """
    lengths: dict[nn.Module, int] = {}

    def record(module: nn.Module, inputs: Any, outputs: Any) -> None:
        lengths[module] = outputs.shape[-1]

    nested = [module for module in extractor.modules() if module is extractor or isinstance(module, BaseFeaturesExtractor)]
    hooks = [module.register_forward_hook(record) for module in nested]
    try:
        device = next((tensor.device for tensor in named_tensors(extractor).values()), th.device("cpu"))
        with isolated_rng(), undisturbed(extractor), th.no_grad():
            extractor(preprocess_obs(example_observations(observation_space, device), observation_space))
    finally:
        for hook in hooks:
            hook.remove()
    for module, length in lengths.items():
        if module.features_dim != length:
            name = "_features_dim" if "_features_dim" in vars(module) else "features_dim"
            if name not in vars(module):
                raise PruningError(
                    f"{type(module).__name__} returns {length} features and says {module.features_dim}, which cannot be "
                    f"corrected: keep the number in an attribute named _features_dim, as BaseFeaturesExtractor does."
                )
            transaction.set_attribute(module, name, length)


def example_observations(observation_space: spaces.Space, device: th.device) -> Any:
    """:return: a few observations of zeros on ``device``, not yet preprocessed: only their shape matters."""
    return obs_as_tensor(create_empty_array(observation_space, n=TRACE_BATCH, fn=np.zeros), device)  # type: ignore[arg-type]


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


def _resize(transaction: Transaction, extractor: nn.Module, shapes: Shapes) -> None:
    """What is left keeps the first of the values that were there."""
    tensors = named_tensors(extractor)
    for name, shape in shapes.items():
        old = tuple(tensors[name].shape) if name in tensors else None
        if old is None or len(old) != len(shape) or any(new > size for new, size in zip(shape, old, strict=True)):
            raise PruningError(
                f"{type(extractor).__name__} builds {name!r} with the shape {old}, from which {tuple(shape)} cannot be cut: "
                f"the class is not the one that was pruned."
            )
        index = {axis: np.arange(length) for axis, length in enumerate(shape) if length < old[axis]}
        transaction.set_data(tensors[name], select(tensors[name].detach(), index))
    update_sizes(transaction, [extractor], [tensors[name] for name in shapes])


def _differing(extractor: nn.Module, dense: Mapping[str, th.Tensor]) -> dict[str, list[int]]:
    return {
        name: list(tensor.shape)
        for name, tensor in named_tensors(extractor).items()
        if name in dense and tensor.shape != dense[name].shape
    }


def _correct_readers(transaction: Transaction, policy: BasePolicy, extractors: Sequence[nn.Module]) -> None:
    """The policy and its networks keep the number of features that they receive."""
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
