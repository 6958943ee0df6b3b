"""Looks through the attributes of an object, and whatever they hold, for optimizers, modules and tensors."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

NO_COPIES = (VecEnv, gym.Env, spaces.Space, BaseBuffer, BaseCallback, BaseAlgorithm, Distribution, Logger, ModuleType, type)
"""Kinds of objects that are not looked into."""
NUMBERS, LISTS = (th.Tensor, np.ndarray), (list, tuple, set, frozenset, deque)
INNER = frozenset("_parameters _buffers _modules _non_persistent_buffers_set".split())
DEEPEST, MOST, MOST_OF_ONE = 8, 20_000, 1_000
"""Bounds of the search: levels, objects, and entries of one collection."""


def walk(roots: Sequence[tuple[str, Any]], ignore: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """
    :param roots: where to begin, by name.
    :param ignore: names that are passed over.
    :return: optimizers, modules, tensors and collections of tensors, each once, by where they are held.
    """
    waiting = [(name, value, 0) for name, value in reversed(roots)]
    seen: set[int] = set()
    while waiting and len(seen) < MOST:
        name, value, depth = waiting.pop()
        passed_over = {name, name.removeprefix("policy.")} & ignore or name.endswith("kwargs") or "batch_norm_stats" in name
        if passed_over or id(value) in seen or depth > DEEPEST:
            continue
        seen.add(id(value))
        entries = _entries(value)
        if isinstance(value, (th.optim.Optimizer, nn.Module)):
            yield name, value
        elif entries and isinstance(value, (Mapping, *LISTS)) and all(isinstance(item, NUMBERS) for _, item in entries):
            yield name, value
            continue
        elif isinstance(value, NUMBERS) and np.ndim(value):
            yield name, [value]
        waiting += [(f"{name}.{key}", item, depth + 1) for key, item in reversed(entries)]


def _entries(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, (Mapping, *LISTS)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return [(str(key), item) for key, item in islice(items, MOST_OF_ONE)]
    if isinstance(value, (*NUMBERS, *NO_COPIES)):
        return []
    if isinstance(value, FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        return [(name, cell.cell_contents) for name, cell in cells if cell != CellType()]  # else not yet bound
    if isinstance(value, MethodType):
        return [("self", value.__self__)]
    if isinstance(value, partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    slots = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
    own = [*getattr(value, "__dict__", {}).items(), *((name, getattr(value, name)) for name in slots)]
    if isinstance(value, th.optim.Optimizer):
        return [(key, item) for key, item in own if key not in ("state", "param_groups")]
    if isinstance(value, nn.Module):
        hidden = [(key, item) for key, item in own if key not in INNER and not key.endswith("_hooks")]
        return [*hidden, *value.named_children()]
    return own


def _slots(kind: type) -> tuple[str, ...]:
    given = vars(kind).get("__slots__", ())
    names = (given,) if isinstance(given, str) else tuple(given)
    return tuple(name for name in names if not name.startswith("__"))
