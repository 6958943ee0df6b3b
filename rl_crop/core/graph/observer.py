"""Shows the linear layers, convolutions and recurrent layers of a network at work, to who looks at what they receive."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch as th
import torch.nn.functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from rl_crop.core.graph.attention import attention_call, attention_parts
from rl_crop.core.graph.recurrence import recurrent_call
from rl_crop.core.graph.tracer import LAYER_CALLS, TRANSPOSED, layer_arguments


class LayerObserver(TorchFunctionMode):
    """
    Shows a function every linear and convolution call, before it is made, while the mode is active.

    A call of a recurrent layer, or of attention, is shown as the linear layers that it holds. The weight of a transposed
    convolution is shown, and may be replaced, as one of outputs by inputs.

    :param weights: name by ``id`` of the weights to watch.
    :param before: called with (name, input, weight, bias, call); ``call()`` computes the layer's output, with which the
        model then goes on, so that nothing may change what it is computed of; ``call(input=..., weight=..., bias=...)`` what
        it would be with others.
    """

    def __init__(self, weights: dict[int, str], before: Callable[..., None]) -> None:
        super().__init__()
        self.weights = weights
        self.before = before

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LAYER_CALLS or func in TRANSPOSED:
            bound = layer_arguments(args, kwargs)
            name = self.weights.get(id(bound["weight"]))
            if name is not None:
                options = {key: value for key, value in kwargs.items() if key not in bound}

                def apply(x: th.Tensor, weight: th.Tensor, bias: th.Tensor | None) -> th.Tensor:
                    weight = weight.transpose(0, 1) if func in TRANSPOSED else weight
                    return func(x, weight, bias, *args[3:], **options)

                if func in TRANSPOSED:
                    bound["weight"] = bound["weight"].transpose(0, 1)
                outputs = self._show(name, bound, apply)
                if outputs and not th.is_grad_enabled():
                    return outputs[0]
        elif (recurrent := recurrent_call(func, args)) is not None:
            self._show_parts([tensor for weights in recurrent.weights for tensor in weights], recurrent.linear_parts)
        elif (attention := attention_call(func, args, kwargs)) is not None:
            self._show_parts(attention.values(), partial(attention_parts, attention))
        return func(*args, **kwargs)

    def _show(self, name: str, bound: dict[str, Any], compute: Callable[..., th.Tensor]) -> list[th.Tensor]:
        """:return: the layer's output, where it was computed"""
        outputs: list[th.Tensor] = []

        def call(**replaced: Any) -> th.Tensor:
            if outputs and not replaced:
                return outputs[0]
            out = compute(*(replaced.get(key, bound[key]) for key in ("input", "weight", "bias")))
            if not replaced:
                outputs.append(out)
            return out

        with th.no_grad():  # a model may switch gradients on for a part of its forward pass
            self.before(name, bound["input"], bound["weight"], bound["bias"], call)
        return outputs

    def _show_parts(self, arguments: Iterable[Any], parts: Callable[[], Iterator[Any]]) -> None:
        if not any(id(tensor) in self.weights for tensor in arguments):
            return
        with th.no_grad():
            for x, weight, bias in parts():
                if id(weight) in self.weights:
                    self._show(self.weights[id(weight)], {"input": x, "weight": weight, "bias": bias}, F.linear)
