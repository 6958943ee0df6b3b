"""Gradients and Hessian-gradient products of a loss summed over batches."""

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch as th
from torch.autograd.graph import GradientEdge
from torch.nn.attention import SDPBackend, sdpa_kernel

from rl_crop.core.errors import PruningError, explained
from rl_crop.core.graph.layer_uses import LayerUses
from rl_crop.core.rng import isolated_rng

Key = TypeVar("Key", bound=Hashable)
BatchLoss = Callable[[Any], th.Tensor]
"""The loss on one batch, a scalar tensor."""


def gradient(loss: BatchLoss, parameters: Sequence[th.Tensor], batches: Iterable[Any], seed: int = 0) -> list[th.Tensor]:
    """
    The gradient of the loss summed over batches.

    :param loss: scalar loss of one batch; its own random numbers are drawn from ``seed``, the same for every call.
    :param parameters: what to differentiate by.
    :param batches: the batches.
    :param seed: of the loss's sampling noise.
    :return: one tensor a parameter, of its shape; zero where the loss does not depend on it or it is frozen
        (``requires_grad=False``).
    :raises PruningError: a loss that is not a finite scalar, or that depends on no parameter.
    """
    total = {parameter: th.zeros_like(parameter) for parameter in parameters}
    for number, batch in enumerate(batches):
        with _of_batch(seed + number):
            _add(total, _any_of(_differentiate([_value(loss, batch)], None, _free(total))))
    return _checked(total, parameters)


def hessian_gradient_product(
    loss: BatchLoss,
    parameters: Sequence[th.Tensor],
    batches: Iterable[Any],
    vector: Sequence[th.Tensor],
    wrt: Sequence[th.Tensor] | None = None,
    seed: int = 0,
) -> list[th.Tensor]:
    """
    The product of the Hessian, summed over batches, with a vector, by double backward.

    The sampling noise of the loss is the same as in :func:`gradient` with the same seed, so the Hessian is
    the derivative of that gradient. Double backward also serves mean-reduced ``mse_loss``, which
    forward-over-reverse mode does not.

    :param loss: as in :func:`gradient`.
    :param parameters: the parameters whose gradient is multiplied by ``vector``.
    :param batches: the batches.
    :param vector: one tensor a parameter; the gradient itself for gradient-flow criteria.
    :param wrt: what the inner product is differentiated by; the parameters themselves by default.
    :param seed: of the loss's sampling noise.
    :return: one tensor for each of ``wrt``.
    :raises PruningError: as in :func:`gradient`.
    """
    wrt = parameters if wrt is None else wrt
    along = dict(zip(parameters, vector, strict=True))
    total = {parameter: th.zeros_like(parameter) for parameter in wrt}
    for number, batch in enumerate(batches):
        _add_product(total, loss, batch, along, seed + number)
    return _checked(total, wrt)


def _add_product(
    total: Mapping[th.Tensor, th.Tensor], loss: BatchLoss, batch: Any, along: Mapping[th.Tensor, th.Tensor], seed: int
) -> None:
    """
    Add one batch's product to the totals, without a second tensor of a layer's size.

    A layer's weight enters the inner product of gradient and vector as ⟨dL/dy, layer(x, vector)⟩, and its derivative of that
    comes in two parts: through the layer's output y, and through what the layer gives back to its input, dL/dx. Each is added
    as it is found. What is neither a linear nor a convolution weight is left to autograd.
    """
    with _of_batch(seed):
        with LayerUses(tensor for tensor in _free(along) if tensor in total) as recorder:
            value = _value(loss, batch)
        uses = recorder.sole(value)
        del recorder  # and with it the graphs of other uses
        direct = {use.weight for use in uses}
        by: dict[Hashable, th.Tensor | GradientEdge] = {(use, "y"): use.y for use in uses}
        by |= {(use, "x"): use.x for use in uses if use.x.requires_grad} | _free(
            tensor for tensor in along if tensor not in direct
        )  # type: ignore[operator]
        back = _any_of(_differentiate([value], None, by, create_graph=True))
        factors = [(back[tensor], along[tensor]) for tensor in along if tensor in back]
        for use in uses:
            if (use, "y") in back:
                moved = use.apply(use.x, along[use.weight])
                factors += [(back[use, "y"], moved), (moved, back[use, "y"])]
    factors = [(one, other.detach()) for one, other in factors if one.requires_grad]
    if not factors:  # a loss that is linear in every parameter has no curvature
        return
    values, weights = zip(*factors, strict=True)
    by = {(use, "y"): use.y for use in uses} | _free(tensor for tensor in total if tensor not in direct)  # type: ignore[operator]
    by |= {(use, "x"): back[use, "x"] for use in uses if (use, "x") in back and back[use, "x"].requires_grad}
    found = _differentiate(values, weights, by)
    for use in uses:
        if (use, "y") in found:
            use.add_product(total[use.weight], use.x.detach(), found[use, "y"])
        if (use, "x") in found:
            use.add_product(total[use.weight], found[use, "x"], back[use, "y"].detach())
    _add(total, found)


@contextlib.contextmanager
def _of_batch(seed: int) -> Iterator[None]:
    # Fused attention kernels have no second derivative.
    with isolated_rng(seed), th.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def _value(loss: BatchLoss, batch: Any) -> th.Tensor:
    value = called(loss, batch)
    if not isinstance(value, th.Tensor) or value.numel() != 1:
        raise PruningError(f"The loss must be a scalar tensor, not {_describe(value)}.")
    if not th.isfinite(value):
        raise PruningError(f"The loss on the scoring data is {value.item()}: nothing was pruned. Check the batches.")
    if not value.requires_grad:
        raise PruningError("The loss does not depend on any parameter: was it computed without gradients?")
    return value.squeeze()


def _free(tensors: Iterable[th.Tensor]) -> dict[th.Tensor, th.Tensor]:
    return {tensor: tensor for tensor in tensors if tensor.requires_grad}


def _differentiate(
    values: Sequence[th.Tensor],
    weights: Sequence[th.Tensor] | None,
    by: Mapping[Key, th.Tensor | GradientEdge],
    create_graph: bool = False,
) -> dict[Key, th.Tensor]:
    """:return: derivatives of the weighted sum of values, by key; none for what it does not depend on"""
    try:
        grads = (
            th.autograd.grad(values, [*by.values()], weights, create_graph=create_graph, allow_unused=True) if by else ()  # type: ignore[arg-type]
        )
    except th.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise PruningError(
            f"The loss cannot be differentiated for this criterion ({error}). Criteria that need less: snip (one gradient), "
            f"magnitude, random, span, synflow (none)."
        ) from error
    return {key: grad for key, grad in zip(by, grads, strict=True) if grad is not None}


def _any_of(grads: dict[Key, th.Tensor]) -> dict[Key, th.Tensor]:
    if not grads:
        raise PruningError("The loss does not depend on any of the parameters that may be pruned.")
    return grads


def called(loss: Callable[..., Any], *args: Any) -> Any:
    """:return: the loss's value; an error inside it becomes a :class:`PruningError`, with the error as its cause."""
    with explained("The loss failed on a batch", "nothing was pruned"):
        return loss(*args)


def _describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, th.Tensor) else repr(type(value))


def _add(total: Mapping[th.Tensor, th.Tensor], grads: Mapping[Any, th.Tensor]) -> None:
    for parameter, running in total.items():
        if parameter in grads:
            running.add_(grads[parameter])


def _checked(total: Mapping[th.Tensor, th.Tensor], parameters: Iterable[th.Tensor]) -> list[th.Tensor]:
    extremes = [extreme for tensor in total.values() if tensor.numel() for extreme in tensor.aminmax()]
    if not all(bool(th.isfinite(extreme)) for extreme in extremes):  # unlike a look at every element, this holds nothing
        raise PruningError("The gradient on the scoring data is not finite: nothing was pruned. Check the batches.")
    return [total[parameter] for parameter in parameters]
