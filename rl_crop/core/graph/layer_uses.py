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
    :param y: where derivatives by its output are found.
    :param sources: the nodes of the graph that x and bias come from.
    :param apply: the layer without bias, of an input and a weight; linear in both.
    :param add_product: adds to its first argument the derivative by the weight of ⟨b, apply(a, weight)⟩, for a and b given.
    """

    weight: th.Tensor
    x: th.Tensor
    y: GradientEdge
    sources: tuple[Any, ...]
    apply: Apply
    add_product: Callable[[th.Tensor, th.Tensor, th.Tensor], object]


class LayerUses(TorchFunctionMode):
    """
    While active, records calls of ``F.linear`` and ``F.conv2d`` with certain weights.

    Not seen are layers inside functions that do more (``multi_head_attention_forward``), and not recorded calls that autograd
    must look after: mixed precision, ``padding="same"``, inputs without a batch axis, weights with hooks.

    :param weights: the parameters of interest.
    """

    def __init__(self, weights: Iterable[th.Tensor]) -> None:
        super().__init__()
        self._weights = {id(weight) for weight in weights if not weight._backward_hooks}
        self._uses: list[LayerUse] = []

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass everything on."""
        layer = LAYERS.get(func)
        if layer is None or kwargs or id(args[1]) not in self._weights or not th.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        x, weight, bias, *geometry = (*args, None)[: max(3, len(args))]
        received = x.view_as(x)
        y = func(received, weight, bias, *geometry)
        whole = weight.dim() == 2 if func is F.linear else x.dim() == 4 and not any(isinstance(item, str) for item in geometry)
        if whole and y.requires_grad and y.dtype == weight.dtype == x.dtype:
            sources = tuple(tensor.grad_fn for tensor in (received, bias) if tensor is not None and tensor.grad_fn is not None)
            self._uses.append(LayerUse(weight, received, get_gradient_edge(y), sources, *layer(geometry)))
        return y

    def sole(self, value: th.Tensor) -> list[LayerUse]:
        """
        The uses through which weights enter a value, of those weights that enter it in no other way.

        The graph is followed from the value to its leaves, and from a recorded output to what the layer received: a weight
        that is met all the same was also used where nobody looked, or its output was replaced by a change in place.

        :param value: what was computed.
        :return: the uses.
        """
        recorded = {use.y.node: use.sources for use in self._uses}
        seen, waiting, met = {value.grad_fn}, [value.grad_fn], set()
        while waiting:
            node: Any = waiting.pop()
            for source in recorded[node] if node in recorded else (edge[0] for edge in node.next_functions):
                if type(source).__name__ == "AccumulateGrad":
                    met.add(id(source.variable))
                elif source is not None and source not in seen:
                    seen.add(source)
                    waiting.append(source)
        return [use for use in self._uses if use.y.node in seen and id(use.weight) not in met]


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
