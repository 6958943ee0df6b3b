"""Gradients and Hessian-gradient products of a loss summed over batches."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch as th
from torch.nn.attention import SDPBackend, sdpa_kernel

from rl_crop.core.errors import PruningError
from rl_crop.core.rng import isolated_rng

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
    total = [th.zeros_like(parameter) for parameter in parameters]
    for number, batch in enumerate(batches):
        _accumulate(total, _gradient_of_batch(loss, parameters, batch, seed + number, create_graph=False))
    return _checked(total)


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
    total = [th.zeros_like(parameter) for parameter in wrt]
    for number, batch in enumerate(batches):
        grads = _gradient_of_batch(loss, parameters, batch, seed + number, create_graph=True)
        curved = [(g, v) for g, v in zip(grads, vector, strict=True) if g is not None and g.requires_grad]
        if curved:  # a loss that is linear in every parameter has no curvature
            found, along = zip(*curved, strict=True)
            _accumulate(total, _differentiate(found, wrt, create_graph=False, along=along))
    return _checked(total)


def _gradient_of_batch(
    loss: BatchLoss, parameters: Sequence[th.Tensor], batch: Any, seed: int, create_graph: bool
) -> tuple[th.Tensor | None, ...]:
    # Fused attention kernels have no second derivative.
    with isolated_rng(seed), th.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        value = called(loss, batch)
        if not isinstance(value, th.Tensor) or value.numel() != 1:
            raise PruningError(f"The loss must be a scalar tensor, not {_describe(value)}.")
        if not th.isfinite(value):
            raise PruningError(f"The loss on the scoring data is {value.item()}: nothing was pruned. Check the batches.")
        if not value.requires_grad:
            raise PruningError("The loss does not depend on any parameter: was it computed without gradients?")
        grads = _differentiate(value.squeeze(), parameters, create_graph)
        if all(grad is None for grad in grads):
            raise PruningError("The loss does not depend on any of the parameters that may be pruned.")
        return grads


def _differentiate(
    value: Any, by: Sequence[th.Tensor], create_graph: bool, along: Sequence[th.Tensor] | None = None
) -> tuple[th.Tensor | None, ...]:
    """
    Derivatives of a scalar, or of the inner product of tensors with fixed ones (``along``); ``None`` for what it does not
    depend on and for frozen parameters.
    """
    free = [tensor for tensor in by if tensor.requires_grad]
    try:
        grads = th.autograd.grad(value, free, along, create_graph=create_graph, allow_unused=True) if free else ()
        found = iter(grads)
    except RuntimeError as error:
        raise PruningError(
            f"The loss cannot be differentiated for this criterion ({error}). Criteria that need less: snip (one gradient), "
            f"magnitude, random, span, synflow (none)."
        ) from error
    return tuple(next(found) if tensor.requires_grad else None for tensor in by)


def called(loss: Callable[..., Any], *args: Any) -> Any:
    """:return: the loss's value; an error inside it becomes a :class:`PruningError`, with the error as its cause."""
    try:
        return loss(*args)
    except PruningError:
        raise
    except Exception as error:
        raise PruningError(f"The loss failed on a batch ({type(error).__name__}: {error}); nothing was pruned.") from error


def _describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, th.Tensor) else repr(type(value))


def _accumulate(total: list[th.Tensor], grads: Iterable[th.Tensor | None]) -> None:
    for running, grad in zip(total, grads, strict=True):
        if grad is not None:
            running.add_(grad.detach())


def _checked(total: list[th.Tensor]) -> list[th.Tensor]:
    if not all(bool(th.isfinite(tensor).all()) for tensor in total):
        raise PruningError("The gradient on the scoring data is not finite: nothing was pruned. Check the batches.")
    return total
