"""What an algorithm holds under names of its own: optimizers, copies of its networks, and networks that may read them."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import named_tensors
from rl_crop.sb3.looking import walk

OWN = frozenset("policy env policy_kwargs policy_class pruning_history pruning_state".split())
"""Attributes of an algorithm of which more is known."""
SMALL = 100
"""Parameters that a network has at least: a vector of fewer numbers is not taken for a copy."""
ALIKE = 0.3
"""Cosine between the weights of two networks of one structure, above which one is taken to follow the other."""


@dataclass(frozen=True)
class Follower:
    """
    A copy of a policy's network, or of a part of it.

    :param name: where it is held.
    :param part: what it is a copy of.
    :param tensors: its tensors, by those of ``part`` (by their ``id``).
    :param module: the copy itself, where it is a module.
    :param alike: whether its weights are those of ``part`` at another time, so that it can be run in its place.
    """

    name: str
    part: nn.Module
    tensors: Mapping[int, th.Tensor]
    module: nn.Module | None = None
    alike: bool = True


@dataclass
class Held:
    """
    :param optimizers: all that were found.
    :param followers: copies.
    :param strangers: tensors of other networks, by where they are held.
    :param notes: what was left as it is.
    """

    optimizers: list[th.optim.Optimizer] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    strangers: dict[str, dict[str, th.Tensor]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def held_by(
    model: BaseAlgorithm | None, policy: BasePolicy, parts: Sequence[nn.Module], beside: Mapping[str, nn.Module],
    ignore: Collection[str] = (),
) -> Held:  # fmt: skip
    """
    Look through the attributes of an algorithm and its policy, and whatever they hold.

    :param model: the algorithm, if any.
    :param policy: its policy.
    :param parts: modules of the policy that something may be a copy of, the largest first.
    :param beside: modules within the policy that are none of its networks, by name.
    :param ignore: names that are not looked at.
    :return: what was found.
    :raises PruningError: a copy cannot be cut along; says which.
    """
    held, finder = Held(), _Finder(policy, parts, beside)
    roots: list[tuple[str, Any]] = [("policy", policy), *((f"policy.{name}", module) for name, module in beside.items())]
    if model is not None:
        roots = [*((name, value) for name, value in vars(model).items() if name not in OWN), *roots]
    for name, value in walk(roots, frozenset(ignore)):
        if isinstance(value, th.optim.Optimizer):
            held.optimizers.append(value)
        elif isinstance(value, nn.Module):
            finder.sort_module(held, name, value)
        else:
            finder.sort_tensors(held, name, value)
    held.strangers = {name: found for name, found in held.strangers.items() if name != "policy"}  # these are traced
    return held


def mirrors_given(held: Held, policy: BasePolicy, parts: Sequence[nn.Module], mirrors: Sequence[Any]) -> None:
    """
    Add copies that the user names.

    :param held: what was found; gets them, unless they are in it.
    :param policy: the policy.
    :param parts: modules of the policy that something may be a copy of, the largest first.
    :param mirrors: modules, state dicts or lists of tensors.
    :raises PruningError: one has another structure than the policy and its parts.
    """
    finder = _Finder(policy, parts, {})
    for place, mirror in enumerate(mirrors):
        there = {id(tensor) for follower in held.followers for tensor in follower.tensors.values()}
        own = named_tensors(mirror).values() if isinstance(mirror, nn.Module) else _values(mirror)
        if {id(tensor) for tensor in own} <= there:
            continue
        found = Held()
        sort: Any = finder.sort_module if isinstance(mirror, nn.Module) else finder.sort_tensors
        sort(found, f"mirrors[{place}]", mirror, True)
        if not found.followers:
            raise PruningError(
                f"mirrors[{place}]: a mirror must be a policy of the same class and structure as the one that is pruned, or "
                f"a copy of a part of it (a module, a state dict, or a list of its parameters)."
            )
        held.followers += found.followers


def _values(tensors: Any) -> list[Any]:
    return list(tensors.values() if isinstance(tensors, Mapping) else tensors)


class _Finder:
    """Tells copies from other networks."""

    def __init__(self, policy: BasePolicy, parts: Sequence[nn.Module], beside: Mapping[str, nn.Module]) -> None:
        self.policy, self.parts = policy, parts
        others = {id(tensor) for module in beside.values() for tensor in named_tensors(module).values()}
        self.own = {id(tensor) for tensor in named_tensors(policy).values()} - others
        self.done: set[int] = set()

    def sort_module(self, held: Held, name: str, module: nn.Module, only: bool = False) -> None:
        """Put a module, or what is in it, where it belongs. ``only``: it is known to be a copy."""
        if id(module) in self.done or module is self.policy:
            return
        self.done |= {id(child) for child in module.modules()}
        self._sort(held, name, module, only)

    def _sort(self, held: Held, name: str, module: nn.Module, only: bool) -> None:
        tensors = named_tensors(module)
        if not tensors or all(id(tensor) in self.own for tensor in tensors.values()):
            return
        same = [part for part in self.parts if type(part) is type(module) and _shapes(part) == _shapes(module)]
        pairs = [(part, list(named_tensors(part).values()), list(tensors.values())) for part in same]
        found = self._best(name, pairs, only)
        if found is not None:
            part, theirs, own = found
            held.followers.append(Follower(name, part, _paired(theirs, own), module))
        elif only:  # a wrapper around a copy holds it whole
            children = [child for child in module.children() if named_tensors(child)]
            if len(children) == 1:
                self._sort(held, name, children[0], only)
        elif same and sum(1 for child in module.modules() if child._parameters) > 1:
            held.notes.append(f"{name} has the structure of a network of this agent, but other weights, and stays as it is")
        else:
            for key, child in module.named_children():
                self._sort(held, f"{name}.{key}", child, only)
            direct = {key: t for key, t in (module._parameters | module._buffers).items() if t is not None}
            left = {key: tensor for key, tensor in direct.items() if id(tensor) not in self.own and tensor.dim()}
            if left:
                held.strangers.setdefault(name.partition(".")[0], {}).update({f"{name}.{k}": t for k, t in left.items()})

    def sort_tensors(self, held: Held, name: str, values: Any, only: bool = False) -> None:
        """The same for a collection of tensors: a state dict, a list in the order of parameters, or one long vector."""
        named = values if isinstance(values, Mapping) else None
        items = _values(values)
        if all(id(item) in self.own for item in items):
            return
        pairs = []
        for part in self.parts:
            theirs = _alike(part, list(named) if named is not None else None, [tuple(item.shape) for item in items])
            if theirs is not None:
                pairs.append((part, theirs, items))
        if len(items) == 1:
            pairs = [(part, t, i) for part, t, i in pairs if len(named_tensors(part)) == 1 and np.ndim(i[0]) > 1]
            wholes = (self.policy, *self.policy.children())
            sizes = {sum(p.numel() for p in part.parameters()) for part in wholes} - set(range(SMALL))
            vector = np.ndim(items[0]) == 1 and name != "weights"  # that of ARS is cut along
            if vector and math.prod(items[0].shape) in sizes:
                raise PruningError(f"model.{name} holds {_CANNOT}")
        if not pairs:
            trained = {
                str(key): item
                for key, item in enumerate(items)
                if isinstance(item, th.Tensor) and item.requires_grad and item.is_leaf
            }
            held.strangers |= {name: trained} if trained and any(item.numel() > 1 for item in trained.values()) else {}
            return
        if any(isinstance(item, np.ndarray) for item in items):
            raise PruningError(f"model.{name} holds {_CANNOT}")
        best = self._best(name, pairs, only)
        if best is None and len({_ids(theirs) for _, theirs, _ in pairs}) > 1:
            raise PruningError(f"model.{name} has the shapes of several networks of this agent: which does it follow? {_SAY}")
        part, theirs, own = best or pairs[0]
        held.followers.append(Follower(name, part, _paired(theirs, own), alike=best is not None))

    def _best(self, name: str, pairs: Sequence[Any], only: bool) -> Any:
        """The candidate whose weights are most like those that are held."""
        scored = sorted(((_cosine(theirs, own), place) for place, (_, theirs, own) in enumerate(pairs)), reverse=True)
        if not scored or (scored[0][0] < ALIKE and not only):
            return None
        first, *others = [pairs[place] for score, place in scored if score > scored[0][0] - 0.05]
        if any(_ids(other[1]) != _ids(first[1]) for other in others):
            raise PruningError(f"model.{name} is as like one network of this agent as another: which does it follow? {_SAY}")
        return first


_SAY = "Name it in ignore= where it is to stay as it is."
_CANNOT = (
    "as many numbers as a network of this agent, as one vector or as arrays, which cannot be cut along: delete it, or name it "
    "in ignore= where it is to stay as it is."
)


def _ids(tensors: Sequence[th.Tensor]) -> tuple[int, ...]:
    return tuple(map(id, tensors))


def _shapes(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensor.shape)) for name, tensor in named_tensors(module).items()]


def _alike(part: nn.Module, names: list[str] | None, shapes: list[tuple[int, ...]]) -> list[th.Tensor] | None:
    """:return: the tensors of a part that a collection of these shapes stands for; ``None`` where it does not."""
    if names is None:
        found: list[Any] = list(part.parameters())
    else:
        state = part.state_dict(keep_vars=True)
        found = [state.get(name) for name in names]
    fits = len(found) == len(shapes) and all(
        isinstance(tensor, th.Tensor) and tuple(tensor.shape) == shape for tensor, shape in zip(found, shapes, strict=True)
    )
    return found if fits else None


def _paired(theirs: Sequence[th.Tensor], own: Sequence[th.Tensor]) -> dict[int, th.Tensor]:
    return {id(one): other for one, other in zip(theirs, own, strict=True) if one is not other}


def _cosine(theirs: Sequence[Any], own: Sequence[Any]) -> float:
    """:return: of all weights together (those that are no vectors)."""
    pairs = [(th.as_tensor(a).detach().double().flatten(), th.as_tensor(b).detach().double().flatten().to(a.device))
             for a, b in zip(theirs, own, strict=True) if a.dim() > 1]  # fmt: skip
    if not pairs:
        return 0.0
    one, other = (th.cat(column) for column in zip(*pairs, strict=True))
    return float(th.nn.functional.cosine_similarity(one, other, dim=0))
