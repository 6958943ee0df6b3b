"""What a caller says of what is cut along with a policy, in plain values where YAML has to say it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import recursive_getattr
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.given import described, listed


@dataclass(frozen=True)
class Along:
    """
    :param optimizers: whose state is cut, beside those that are found.
    :param mirrors: copies of the policy, or of a part of it, that are cut at the same indices, beside those that are found.
    :param ignore: modules of the policy that are left whole.
    :param unasked: attributes of the algorithm that are not looked at, beside those in ``ignore``.
    """

    optimizers: tuple[th.optim.Optimizer, ...] = ()
    mirrors: tuple[Any, ...] = ()
    ignore: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()


def along(model: BaseAlgorithm | None, policy: BasePolicy, optimizers: Any, mirrors: Any, ignore: Any = ()) -> Along:
    """
    :param model: the algorithm, if any.
    :param policy: its policy.
    :param optimizers: one or several optimizers: objects, names of attributes of the algorithm (``"vf_optimizer"``, dots
        within), or a function of the algorithm that returns them.
    :param mirrors: copies, likewise.
    :param ignore: names of modules of the policy, or of attributes of the algorithm.
    :return: all of it as objects.
    :raises PruningError: a name is unknown, or an object is of another kind.
    """
    if not isinstance(ignore, (str, Iterable)):
        raise PruningError(f"ignore is {described(ignore)}: it must be a list of names of modules.")
    names = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    modules = dict(policy.named_modules(remove_duplicate=False))
    unasked = tuple(name for name in names if name not in modules and _has(model, name))
    known = _resolved(model, "optimizers", optimizers)
    found = listed("optimizers", known, th.optim.Optimizer, "optimizers of torch, or of names of attributes")
    copies = _resolved(model, "mirrors", mirrors)
    for place, item in enumerate(copies):
        if not (isinstance(item, (nn.Module, Mapping)) or isinstance(item, Sequence) and _is_copy(item)):
            raise PruningError(
                f"mirrors[{place}] is {described(item)}: mirrors must be a list of policies of the same class and structure, "
                f"or of copies of their parts (modules, state dicts, lists of parameters), or of names of attributes."
            )
    kept = tuple(name for name in names if name not in unasked)
    return Along(tuple(found), tuple(copies), kept, unasked)


def _resolved(model: BaseAlgorithm | None, argument: str, given: Any) -> list[Any]:
    if given is None:
        return []
    if callable(given) and not isinstance(given, nn.Module):
        if model is None:
            raise PruningError(f"{argument} is a function of an algorithm, and there is none: give objects.")
        given = given(model)
    one = isinstance(given, (str, bytes, Mapping, nn.Module, th.Tensor)) or not isinstance(given, Iterable)
    items = [given] if one else list(given)
    return [_named(model, argument, item) for item in ([items] if _is_copy(items) and not one else items)]


def _is_copy(value: Sequence[Any]) -> bool:
    """Whether a list is one copy, of tensors, and not a list of copies."""
    return len(value) > 0 and all(isinstance(item, th.Tensor) for item in value)


def _named(model: BaseAlgorithm | None, argument: str, item: Any) -> Any:
    if not isinstance(item, str):
        return item
    if not _has(model, item):
        raise PruningError(f"{argument} names {item!r}, which is no attribute of {type(model).__name__}.")
    return recursive_getattr(model, item)


def _has(model: Any, path: str) -> bool:
    try:
        recursive_getattr(model, path)
    except AttributeError:
        return False
    return model is not None
