"""Work that leaves no trace: global random generators, modes and buffers are afterwards as before."""

import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch as th
from torch.overrides import TorchFunctionMode

_TURNS = [threading.RLock()]
"""Generators and modes are one for all threads: a block that changes them waits for that of another thread."""
if hasattr(os, "register_at_fork"):  # in a child nobody is left to release the old one
    os.register_at_fork(after_in_child=lambda: _TURNS.__setitem__(0, threading.RLock()))


@contextmanager
def turn() -> Iterator[None]:
    """Plan, or change, in a block (or in a function that this decorates) while no other thread does."""
    with _TURNS[0]:
        yield


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """
    Run a block with its own random numbers and put every global generator back afterwards. One thread at a time does so.

    :param seed: seeds Python's, numpy's and torch's generators inside the block; ``None`` lets the
        block start from where the generators stand.
    """
    with _TURNS[0]:
        states = random.getstate(), np.random.get_state(), th.get_rng_state()
        # Asking for the states would start CUDA in a process that does not use it (and could then no longer fork).
        cuda_states = th.cuda.get_rng_state_all() if th.cuda.is_initialized() else []
        try:
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed % 2**32)
                th.default_generator.manual_seed(seed)
                if cuda_states:
                    th.cuda.manual_seed_all(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            th.set_rng_state(states[2])
            if cuda_states:
                th.cuda.set_rng_state_all(cuda_states)


@contextmanager
def eval_mode(*modules: th.nn.Module, training: bool = False) -> Iterator[None]:
    """
    Put modules in evaluation mode for a block and give every submodule its own mode back.

    Within it nothing runs compiled: a compiled module has no second derivatives, and hides the calls of its layers.

    :param modules: the root modules.
    :param training: put them in training mode instead.
    """
    with _TURNS[0]:  # else another thread takes the mode of meanwhile for a module's own
        modes = [(child, child.training) for module in modules for child in module.modules()]
        compiler = "torch._dynamo" in sys.modules and hasattr(th.compiler, "set_stance")  # else nothing has been compiled
        try:
            for module in modules:
                module.train() if training else module.eval()
            with th.compiler.set_stance("force_eager") if compiler else nullcontext():
                yield
        finally:
            for child, mode in modes:
                child.training = mode


@contextmanager
def undisturbed(*modules: th.nn.Module, training: bool = False) -> Iterator[None]:
    """
    Run modules in evaluation mode for a block; modes, attributes and buffers (statistics, counters of steps) are then as
    before.

    :param modules: the root modules.
    :param training: run them in training mode instead.
    """
    with _TURNS[0]:
        owners = [child for module in modules for child in module.modules()]
        attributes = [dict(vars(owner)) for owner in owners]
        kept = [(owner, name, buffer) for owner in owners for name, buffer in owner._buffers.items()]
        contents = [None if buffer is None or buffer.layout != th.strided else buffer.detach().clone() for *_, buffer in kept]
        try:
            with eval_mode(*modules, training=training):
                yield
        finally:
            for owner, before in zip(owners, attributes, strict=True):
                _restore_attributes(vars(owner), before)
            for (owner, name, buffer), content in zip(kept, contents, strict=True):
                owner._buffers[name] = buffer
                if buffer is None or content is None or th.equal(buffer, content):
                    continue
                if buffer.shape == content.shape:
                    buffer.data.copy_(content)  # in place: TD3 lists statistics by views of their memory
                else:
                    buffer.data = content


def _restore_attributes(now: dict[str, Any], before: dict[str, Any]) -> None:
    """What a forward pass has computed and left as an attribute (a weight, of its norm and direction) stays computed."""
    for name in now.keys() - before.keys():
        del now[name]
    for name, value in before.items():
        if now.get(name, now) is not value and not (isinstance(value, th.Tensor) and not value.is_leaf):
            now[name] = value


_DRAWS = frozenset(
    """rand randn rand_like randn_like normal normal_ uniform_ exponential_ bernoulli bernoulli_ log_normal_ cauchy_
    geometric_""".split()
)
_DROPOUTS = frozenset("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout".split())


class Steady(TorchFunctionMode):
    """While active, every random number is one half, as draws of two widths, or of two numbers of rows, cannot be the same."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass everything else on."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name.rstrip("_") in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        out = func(*args, **kwargs)
        return out.fill_(0.5) if name in _DRAWS and isinstance(out, th.Tensor) else out
