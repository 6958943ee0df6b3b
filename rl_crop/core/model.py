"""What a task hands to the core: networks with their objectives, and the copies that must stay in step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from torch import nn

from rl_crop.core.importance.batch_statistics import as_trained
from rl_crop.core.importance.curvature import BatchLoss
from rl_crop.core.pruning.surgery import Transaction

Run = Callable[..., Any]
"""Runs a network on stored observations and returns its outputs; see :func:`make_run`."""


def mapped(function: Callable[..., Any], *values: Any) -> Any:
    """:return: what the function returns for values, or, of mappings of one structure, a dictionary of it by key."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: mapped(function, *(value[key] for value in values)) for key in first}
    return function(*values)


def make_run(function: Callable[..., Any], inputs: Sequence[Any]) -> Run:
    """
    Bind a function to stored inputs.

    :param function: called with the inputs.
    :param inputs: tensors, or dictionaries of tensors, with one row an observation; anything else is passed on as it is.
    :return: ``run()`` uses all rows, ``run(n)`` the first n (repeated where there are fewer), ``run(index=rows)`` the
        given ones, ``run(ones=True)`` one row of ones.
    """

    def run(n: int | None = None, index: th.Tensor | slice | None = None, ones: bool = False) -> Any:
        def chosen(value: Any) -> Any:
            if not isinstance(value, th.Tensor):
                return value
            if ones:
                return th.ones_like(value[:1])
            if n is not None:
                return value[th.arange(n, device=value.device) % len(value)]
            return value if index is None else value[index]

        return function(*(mapped(chosen, value) for value in inputs))

    return run


@dataclass(frozen=True)
class Network:
    """
    A part of the model with a budget of its own.

    :param name: for reports and errors.
    :param parameters: names of the parameters it owns; its units are those that they produce.
    :param loss: scalar loss of a batch, ``None`` where no criterion needs one.
    :param batches: what the loss is computed on.
    """

    name: str
    parameters: frozenset[str]
    loss: BatchLoss | None = None
    batches: Sequence[Any] = ()


@dataclass(frozen=True)
class Copy:
    """
    One physical copy of (part of) the model: the trained one, or a target that follows it.

    :param tensors: its parameters and buffers, under the names of the trained copy.
    :param runs: functions that together run every network on the stored observations.
    :param modules: where its tensors live.
    """

    tensors: Mapping[str, th.Tensor]
    runs: Sequence[Run]
    modules: Sequence[nn.Module]


@dataclass(frozen=True)
class Subject:
    """
    Everything the core needs to know of a model.

    :param root: the module whose names are used.
    :param networks: in the order in which budgets are settled (a shared extractor before what reads it).
    :param trained: the copy that is scored.
    :param mirrors: copies cut at the same indices, each compensated on its own activations.
    :param has_observations: whether the runs are made on real observations, or only on inputs of the right shape.
    :param apart: whether a run can be on some of the observations; else every run is on all, which then count as one.
    :param pinned: further functions whose outputs keep their size, by reason.
    :param training: further functions that training runs; these and the trained copy's are looked at in training mode too.
    :param strangers: modules and tensors beside the model that may read what it computes, by what to call them; see
        :mod:`rl_crop.core.graph.unmet`.
    :param fixed: tensors that are never cut, along no axis, with the reason.
    :param ties: pairs of (tensor, axis) that hold the same units although no call joins them.
    :param one_width: by reason, pairs of (tensor, axis) whose units may differ, but not their number.
    :param stored: data that the runs read and whose last axis holds units (states of a recurrent layer), by name.
    :param follow: called with the transaction and, by name, the places of stored data that stay, where some go.
    :param unscored: parameters that are cut with the units but say nothing of them where they are zero (a ``log_std``), so
        that they have no part in scores.
    :param whole: modules left whole, as if named in ``ignore``, with the reason.
    :param one_vector: whether all parameters may be parts of one vector, which is written anew after a cut.
    :param contrasts: whether only differences between the outputs of a row decide anything (logits, values of actions), so
        that these are compared too where a size is to be found.
    :param optimizers: whose state is cut along.
    :param uses: what training does with the trained copy, a function for each batch: the loss itself, or the network run on
        it. Looked at in both modes; what ran before a cut must run after it.
    :param before_cut: called before a cut that is compensated; what it returns is called with the transaction once all layers
        are refitted, and restores what is no layer's output.
    :param after_cut: called with the transaction once everything has its new shape; returns notes for the report.
    :param notes: for the report.
    :param applied: called with the report of a plan that was applied by itself, and the transaction.
    """

    root: nn.Module
    networks: tuple[Network, ...]
    trained: Copy
    mirrors: tuple[Copy, ...] = ()
    has_observations: bool = True
    apart: bool = True
    pinned: Mapping[str, Run] = field(default_factory=dict)
    training: tuple[Run, ...] = ()
    strangers: Mapping[str, Mapping[str, th.Tensor]] | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)
    ties: tuple[tuple[tuple[str, int], tuple[str, int]], ...] = ()
    one_width: Mapping[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    stored: Mapping[str, th.Tensor] = field(default_factory=dict)
    follow: Callable[[Transaction, Mapping[str, np.ndarray]], None] = field(default=lambda transaction, stays: None)
    unscored: frozenset[str] = frozenset()
    whole: Mapping[str, str] = field(default_factory=dict)
    one_vector: bool = False
    contrasts: bool = False
    optimizers: tuple[th.optim.Optimizer, ...] = ()
    uses: tuple[Callable[[], Any], ...] = ()
    before_cut: Callable[[], Callable[[Transaction], None]] = field(default=lambda: lambda transaction: None)
    after_cut: Callable[[Transaction], Sequence[str]] = field(default=lambda transaction: ())
    notes: tuple[str, ...] = ()
    applied: Callable[[Any, Transaction], None] = field(default=lambda report, transaction: None)

    @property
    def copies(self) -> tuple[Copy, ...]:
        """The trained copy and all mirrors."""
        return (self.trained, *self.mirrors)

    def loss_of(self, network: Network) -> BatchLoss | None:
        """:return: what a network's criterion differentiates: its loss, as it is trained where norms are at their start."""
        copies = {id(child) for mirror in self.mirrors for module in mirror.modules for child in module.modules()}
        return as_trained(network.loss, [module for module in self.root.modules() if id(module) not in copies])

    def parameters_beside(self, changed: Sequence[th.Tensor]) -> list[th.Tensor]:
        """:return: the tensors, in all copies, of every network that owns one of the changed ones."""
        identities = {id(tensor) for tensor in changed}
        own = {name for name, tensor in self.trained.tensors.items() if id(tensor) in identities}
        names = [name for network in self.networks if network.parameters & own for name in network.parameters]
        return [copy.tensors[name] for copy in self.copies for name in names if name in copy.tensors]
