"""Modules that a policy was given rather than made: whoever made them may hold them elsewhere."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from rl_crop.core.errors import lacks_memory
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.rng import isolated_rng
from rl_crop.sb3.extractors import PrunedExtractor

LIBRARIES = ("stable_baselines3", "sb3_contrib")


def handed_over(policy: BasePolicy, model: BaseAlgorithm | None) -> set[int]:
    """
    Tensors of a policy that others may hold: a pretrained encoder in ``policy_kwargs``, or one of a whole program. To cut
    them in place would break every other agent that was built with them, and the next one that is.

    :param policy: the policy.
    :param model: the algorithm that holds it, if any.
    :return: their ``id``.
    """
    given = [getattr(policy, "features_extractor_kwargs", None), getattr(model, "policy_kwargs", None)]
    found = {id(tensor) for value in given for tensor in _tensors_in(value)}
    return (found | _built_again(policy)) & {id(tensor) for tensor in named_tensors(policy).values()}


def _tensors_in(value: Any) -> Iterator[th.Tensor]:
    if isinstance(value, nn.Module):
        yield from named_tensors(value).values()
    elif isinstance(value, th.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)


def _built_again(policy: BasePolicy) -> set[int]:
    """What a features extractor's class puts into every extractor that it builds."""
    kind, kwargs = getattr(policy, "features_extractor_class", None), getattr(policy, "features_extractor_kwargs", {})
    if kind is PrunedExtractor:
        kind, kwargs = kwargs["extractor"], kwargs["extractor_kwargs"]
    if kind is None or kind.__module__.partition(".")[0] in LIBRARIES:
        return set()
    try:
        with isolated_rng():
            built = kind(copy.deepcopy(policy.observation_space), **copy.deepcopy(dict(kwargs)))
    except Exception as error:  # whether it can be built is asked where that matters
        if lacks_memory(error):
            raise
        return set()
    return {id(tensor) for tensor in named_tensors(built).values()}
