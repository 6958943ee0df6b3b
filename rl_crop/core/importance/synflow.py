"""SynFlow: saliency without data, by what flows through a network of positive weights."""

from collections.abc import Callable
from typing import Any

import torch as th
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.tracer import tensors_in
from rl_crop.core.importance.context import ImportanceContext, Saliency


def synflow(context: ImportanceContext) -> Saliency:
    """
    |θ ∂R/∂θ| for R the summed outputs on inputs of ones, all parameters of the networks made positive: data-free (SynFlow,
    NeurIPS 2020). A norm's running mean, which is subtracted, becomes negative, so that nothing stops the flow. In double
    precision, as in the released code: in single precision the flow of a deep network overflows.
    """
    every = {**context.tensors, **context.parameters}
    every = {name: tensor for name, tensor in every.items() if tensor.is_floating_point()}
    tensors = {name: every[name] for name in context.parameters if name in every}
    kept = {name: (tensor.data, tensor.requires_grad) for name, tensor in every.items()}
    try:
        for name, tensor in every.items():
            is_mean = name.endswith("_mean") and not isinstance(tensor, th.nn.Parameter)
            size = tensor.data.double().abs()
            tensor.data = -size if is_mean else size
        for tensor in tensors.values():
            tensor.requires_grad_(True)
        with th.enable_grad(), _Double():
            outputs = [out for out in tensors_in(context.forward_on_ones()) if out.requires_grad]
            if not outputs:
                raise PruningError("synflow: the outputs do not depend on any parameter.")
            flow = th.stack([out.sum() for out in outputs]).sum()
            if not bool(th.isfinite(flow)):
                raise PruningError(
                    "synflow: what flows through this network is larger than double precision holds, as its layers are too "
                    "many or too wide: use another criterion."
                )
            grads = th.autograd.grad(flow, list(tensors.values()), allow_unused=True)
        saliency = {name: th.zeros_like(tensor, dtype=th.float64) for name, tensor in context.parameters.items()}
        flows = {
            name: (t.data * grad).abs() for (name, t), grad in zip(tensors.items(), grads, strict=True) if grad is not None
        }
        return saliency | flows
    finally:
        for name, tensor in every.items():
            tensor.data, tensor.requires_grad = kept[name]


class _Double(TorchFunctionMode):
    """Whatever a forward pass makes, or is given, in another precision is in double precision."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_doubled, (args, kwargs or {}))
        return tree_map(_doubled, func(*args, **kwargs))


def _doubled(value: Any) -> Any:
    other = isinstance(value, th.Tensor) and value.is_floating_point() and value.dtype != th.float64
    return value.double() if other else value
