"""Looking at all that training does with a network: both modes, and the loss, on whole batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from rl_crop.core.errors import lacks_memory
from rl_crop.core.graph.tracer import LabelTracer, tensors_in
from rl_crop.core.rng import isolated_rng, undisturbed

OUTPUT = "its outputs are the network's outputs"

Use = Callable[[], Any]
"""Uses the network as training does: the loss of one batch, or the network run on one."""


def look_further(tracer: LabelTracer, model: nn.Module, forwards: Sequence[Use], uses: Sequence[Use]) -> None:
    """
    Follow labels through what the first look did not take: a branch of training, of a call of the loss, of other rows.

    :param tracer: records what belongs together.
    :param model: the root module; its modes, attributes and buffers are afterwards as before.
    :param forwards: functions whose results are outputs.
    :param uses: of a batch each.
    """
    for training in (False, True):
        for function in (*forwards, *uses):
            with undisturbed(model, training=training), isolated_rng(0), _within(tracer, model, function in uses):
                # A loss may take gradients of its own (a gradient penalty).
                with th.set_grad_enabled(function in uses), tracer:
                    try:
                        result = function()
                    except Exception as error:
                        if not training or lacks_memory(error):
                            raise
                        continue  # it cannot be trained in this way, dense or pruned
                if function not in uses:
                    tracer.freeze_all(result, OUTPUT)
                tracer.forget_activations()


def tried(model: nn.Module, uses: Sequence[Use]) -> list[bool | Exception]:
    """
    :param model: the root module, left as it is.
    :param uses: of a batch each.
    :return: of the first use in evaluation mode and then of all in training mode, whether all that it returns is finite, or
        its error.
    """
    found: list[bool | Exception] = []
    for training, those in ((False, uses[:1]), (True, uses)):
        for use in those:
            with undisturbed(model, training=training), isolated_rng(0), th.enable_grad():
                try:
                    found.append(all(bool(th.isfinite(value).all()) for value in tensors_in(use())))
                except Exception as error:
                    if lacks_memory(error):
                        raise
                    found.append(error)
    return found


@contextmanager
def _within(tracer: LabelTracer, model: nn.Module, is_use: bool) -> Iterator[None]:
    """Tell the tracer when a loss runs outside of every module; what the root module returns to it is an output."""
    own = {id(module) for module in model.modules()}
    entered: list[nn.Module] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        if id(module) in own:
            entered.append(module)
            tracer.in_loss = False

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if id(module) in own and entered:
            entered.pop()
            tracer.in_loss = is_use and not entered
            if module is model:
                tracer.freeze_all(outputs, OUTPUT)

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    tracer.in_loss = is_use
    try:
        yield
    finally:
        tracer.in_loss = False
        for hook in hooks:
            hook.remove()
