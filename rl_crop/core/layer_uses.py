"""
Where linear and convolution layers apply their weights, so that derivatives by a weight are put together from its inputs and
outputs.

Autograd holds several tensors of a weight's size at a time while it differentiates twice; this way only the sum is held.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch as th
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode

Apply = Callable[[th.Tensor, th.Tensor], th.Tensor]


@dataclass(frozen=True, eq=False)
class LayerUse:
    """
    One application y = layer(x, weight) + bias.

    :param weight: the parameter.
    :param x: what the layer received, and nothing else did: derivatives by it are this use's alone.
    :param y: where derivatives by its output are found, whatever is done to the output in place.
    :param apply: the layer without bias, of an input and a weight; linear in both.
    :param add_product: adds to its first argument the derivative by the weight of ⟨b, apply(a, weight)⟩, for a and b given.
    """

    weight: th.Tensor
    x: th.Tensor
    y: GradientEdge
    apply: Apply
    add_product: Callable[[th.Tensor, th.Tensor, th.Tensor], object]


class LayerUses(TorchFunctionMode):
    """
    While active, records the uses of weights by ``F.linear`` and ``F.conv2d``.

    :param weights: the parameters of interest.
    """

    def __init__(self, weights: Iterable[th.Tensor]) -> None:
        super().__init__()
        self._weights = {id(weight) for weight in weights}
        self._uses: list[LayerUse] = []

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass everything on."""
        layer = LAYERS.get(func)
        if layer is None or kwargs or id(args[1]) not in self._weights or not th.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        x, weight, bias, *geometry = (*args, None)[: max(3, len(args))]
        received = x.view_as(x)
        y = func(received, weight, bias, *geometry)
        # Autograd knows where precision is mixed, and the derivative of a convolution what padding="same" is.
        plain = y.dtype == weight.dtype == x.dtype and not any(isinstance(item, str) for item in geometry)
        if plain and y.requires_grad and (func is F.linear or x.dim() == 4):
            self._uses.append(LayerUse(weight, received, get_gradient_edge(y), *layer(geometry)))
        return y

    def sole(self, value: th.Tensor) -> list[LayerUse]:
        """
        The uses of those weights that enter a value through recorded uses alone, and through each of them.

        :param value: what was computed.
        :return: the uses; none of a weight that enters in another way as well.
        """
        recorded: dict[int, int] = {}
        for use in self._uses:
            recorded[id(use.weight)] = recorded.get(id(use.weight), 0) + 1
        entered = _entries(value)
        return [use for use in self._uses if entered.get(id(use.weight)) == recorded[id(use.weight)]]


def _entries(value: th.Tensor) -> dict[int, int]:
    """:return: how often each leaf enters the graph of a value, by the leaf's id"""
    entries: dict[int, int] = {}
    seen, waiting = {value.grad_fn}, [value.grad_fn]
    while waiting:
        for node, _ in waiting.pop().next_functions:  # type: ignore[union-attr]
            leaf = getattr(node, "variable", None)
            if leaf is not None:
                entries[id(leaf)] = entries.get(id(leaf), 0) + 1
            elif node is not None and node not in seen:
                seen.add(node)
                waiting.append(node)
    return entries


def _linear(geometry: Any) -> tuple[Apply, Callable]:
    def add_product(total: th.Tensor, a: th.Tensor, b: th.Tensor) -> None:
        total.addmm_(b.reshape(-1, b.shape[-1]).t(), a.reshape(-1, a.shape[-1]))

    return F.linear, add_product


def _conv2d(geometry: Any) -> tuple[Apply, Callable]:
    def apply(x: th.Tensor, weight: th.Tensor) -> th.Tensor:
        return F.conv2d(x, weight, None, *geometry)

    def add_product(total: th.Tensor, a: th.Tensor, b: th.Tensor) -> None:
        total.add_(conv2d_weight(a, list(total.shape), b, *geometry))

    return apply, add_product


LAYERS: dict[Callable, Callable[[Any], tuple[Apply, Callable]]] = {F.linear: _linear, F.conv2d: _conv2d}
