"""
Recurrent layers (LSTM, GRU, RNN, and their cells): what is one hidden unit of theirs, and which linear layers they hold.

A hidden unit owns its row in every gate, its column among the recurrent weights and its place in the states. All layers and
directions of one ``nn.LSTM`` have one ``hidden_size`` and share the axis of its states: units of one place go together.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.graph.tracer import LabelTracer

LAYERS: dict[Callable, int] = {th.lstm: 4, th.gru: 3, th.rnn_tanh: 1, th.rnn_relu: 1}
"""Calls that run over a sequence, with the number of gates."""
CELLS: dict[Callable, int] = {th.lstm_cell: 4, th.gru_cell: 3, th.rnn_tanh_cell: 1, th.rnn_relu_cell: 1}
"""Calls that make one step."""
GIVEN = "is given a state of a fixed size"
COMPUTED = "meets a weight that is computed, not a parameter"


class Weights(NamedTuple):
    """Of one direction of one layer: (gates times hidden, inputs), (gates times hidden, outputs), and so on."""

    inputs: th.Tensor
    recurrent: th.Tensor
    bias: th.Tensor | None = None
    recurrent_bias: th.Tensor | None = None
    projection: th.Tensor | None = None


@dataclass(frozen=True)
class RecurrentCall:
    """
    One call of a recurrent layer.

    :param function: one of :data:`LAYERS` or :data:`CELLS`.
    :param x: the input; its last axis holds features.
    :param states: h, and c of an LSTM: (layers times directions, batch, units), of a cell (batch, units).
    :param layers: weights by layer and direction.
    :param batch_first: whether the batch axis comes before that of time.
    :param packed: whether the input is the data of a packed sequence, whose axis of time is folded into that of the batch.
    """

    function: Callable
    x: th.Tensor
    states: tuple[th.Tensor, ...]
    layers: Sequence[Sequence[Weights]]
    batch_first: bool = False
    packed: bool = False

    @property
    def weights(self) -> list[Weights]:
        """Of all layers and directions."""
        return [weights for layer in self.layers for weights in layer]

    @property
    def gates(self) -> int:
        """Blocks of rows of a weight."""
        return (LAYERS | CELLS)[self.function]

    def linear_parts(self) -> Iterator[tuple[th.Tensor, th.Tensor, th.Tensor | None]]:
        """
        The linear layers that the call applies, as (input, weight, bias) in forward order.

        A weight may be changed while the next ones are not yet asked for: these then follow from the new one. Of packed
        sequences the first layer's are known only.
        """
        if self.function in CELLS:
            weights = self.weights[0]
            yield self.x, weights.inputs, weights.bias
            yield self.states[0], weights.recurrent, weights.recurrent_bias
            return
        x, time = self.x, int(self.batch_first)
        for number, layer in enumerate(self.layers):
            outputs = []
            for direction, weights in enumerate(layer):
                state = tuple(each[number * len(layer) + direction].unsqueeze(0) for each in self.states)
                sequence = x if direction == 0 or self.packed else x.flip(time)
                yield sequence, weights.inputs, weights.bias
                if self.packed:
                    continue
                before = th.cat(
                    [state[0].movedim(0, time), self._run(sequence, state, weights).narrow(time, 0, x.shape[time] - 1)], time
                )
                yield before, weights.recurrent, weights.recurrent_bias
                if weights.projection is not None:
                    yield self._cells(sequence, state, weights), weights.projection, None
                out = self._run(sequence, state, weights)
                outputs.append(out if direction == 0 else out.flip(time))
            if self.packed:
                return
            x = th.cat(outputs, -1)

    def _run(self, x: th.Tensor, state: tuple[th.Tensor, ...], weights: Weights) -> th.Tensor:
        """:return: the outputs of one direction of one layer."""
        given = state if self.function is th.lstm else state[0]
        flat = [weight for weight in weights if weight is not None]
        return self.function(x, given, flat, weights.bias is not None, 1, 0.0, False, False, self.batch_first)[0]

    def _cells(self, x: th.Tensor, state: tuple[th.Tensor, ...], weights: Weights) -> th.Tensor:
        """:return: what the projection of an LSTM receives: its outputs before it."""
        assert weights.projection is not None
        (h, c), found = (each[0] for each in state), []
        for step in x.unbind(int(self.batch_first)):
            gates = F.linear(step, weights.inputs, weights.bias) + F.linear(h, weights.recurrent, weights.recurrent_bias)
            enter, forget, candidate, leave = gates.chunk(4, -1)
            c = forget.sigmoid() * c + enter.sigmoid() * candidate.tanh()
            found.append(leave.sigmoid() * c.tanh())
            h = F.linear(found[-1], weights.projection)
        return th.stack(found, int(self.batch_first))


def recurrent_call(func: Callable, args: tuple) -> RecurrentCall | None:
    """:return: a torch call as one of a recurrent layer, or ``None`` where it is another."""
    if func in CELLS:
        x, given, *weights = args
        return RecurrentCall(func, x, _states(given), [[Weights(*weights)]])
    if func not in LAYERS:
        return None
    packed = isinstance(args[3], (list, tuple))  # the second argument is then the batch's size by step
    x, given, flat, has_biases, n_layers = (args[0], *args[2:6]) if packed else args[:5]
    bidirectional = args[8 if packed else 7]
    size = len(flat) // (n_layers * (2 if bidirectional else 1))
    found = []
    for start in range(0, len(flat), size):
        own = flat[start : start + size]
        bias, recurrent_bias = own[2:4] if has_biases else (None, None)
        found.append(Weights(own[0], own[1], bias, recurrent_bias, own[-1] if size in (3, 5) else None))
    directions = 2 if bidirectional else 1
    layers = [found[start : start + directions] for start in range(0, len(found), directions)]
    return RecurrentCall(func, x, _states(given), layers, not packed and bool(args[8]), packed)


def _states(given: Any) -> tuple[th.Tensor, ...]:
    return (given,) if isinstance(given, th.Tensor) else tuple(given)


@contextmanager
def own_states(model: nn.Module, weights: set[int]) -> Iterator[None]:
    """
    While active, keeps the ids of the recurrent weights whose layers make their own initial states, of their own size.

    :param model: the root module.
    :param weights: where they are kept.
    """

    def before(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        recurrent = module.weight_hh if isinstance(module, nn.RNNCellBase) else module.weight_hh_l0
        own = len(args) < 2 and kwargs.get("hx") is None or len(args) > 1 and args[1] is None
        (weights.add if own else weights.discard)(id(recurrent))

    kinds = (nn.RNNBase, nn.RNNCellBase)
    hooks = [m.register_forward_pre_hook(before, with_kwargs=True) for m in model.modules() if isinstance(m, kinds)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def label_recurrent(tracer: LabelTracer, call: RecurrentCall, out: Any, read: str) -> None:
    """
    Record what belongs to the hidden units of a recurrent layer.

    :param tracer: where labels are kept.
    :param call: the call.
    :param out: what it returned.
    :param read: why columns that read no units stay.
    """
    parameters = [tensor for weights in call.weights for tensor in weights if tensor is not None]
    if any(id(tensor) not in tracer.names for tensor in parameters):
        for tensor in (call.x, *call.states, *parameters):
            tracer.freeze_tensor(tensor, COMPUTED)
        return
    axes = tracer.axes(call.x)
    received = None if axes is None else axes[-1]
    for axis in axes[:-1] if axes is not None else ():
        tracer.freeze(axis, GIVEN)
    cells, units = _first_units(tracer, call)
    for layer in call.layers:
        for weights in layer:
            _label_weights(tracer, call, weights, (cells, units), received, read)
        received = np.concatenate([units] * len(layer))
    own = id(call.weights[0].recurrent) in tracer.own_states
    for state, labels in zip(call.states, (units, cells), strict=False):
        known = tracer.axes(state)
        if known is not None or not own:
            tracer.tie(labels, None if known is None else known[-1], GIVEN)
    outputs = (out,) if isinstance(out, th.Tensor) else tuple(out)
    if call.function in LAYERS:
        tracer.label(outputs[0], (*[None] * (outputs[0].dim() - 1), received))
        outputs = outputs[1:]
    for state, labels in zip(outputs, (units, cells), strict=False):
        tracer.label(state, (*[None] * (state.dim() - 1), labels))


def _first_units(tracer: LabelTracer, call: RecurrentCall) -> tuple[np.ndarray, np.ndarray]:
    """:return: labels of what the cells hold, and of what the layer gives out: the same, where nothing is projected."""
    first = call.weights[0]
    rows = tracer.axes_of[tracer.names[id(first.recurrent)]][0]
    cells = rows[: len(rows) // call.gates]
    return cells, cells if first.projection is None else tracer.axes_of[tracer.names[id(first.projection)]][0]


def _label_weights(
    tracer: LabelTracer,
    call: RecurrentCall,
    weights: Weights,
    labels: tuple[np.ndarray, np.ndarray],
    received: np.ndarray | None,
    read: str,
) -> None:
    cells, units = labels
    positions = call.x.numel() // call.x.shape[-1]
    columns = {"inputs": received, "recurrent": units, "projection": cells}
    for part, tensor in weights._asdict().items():
        if tensor is None:
            continue
        name = tracer.names[id(tensor)]
        own = tracer.axes_of[name]
        for block in [own[0]] if part == "projection" else np.split(own[0], call.gates):
            tracer.tie(units if part == "projection" else cells, block, read)
        if part in columns:
            tracer.tie(own[1], columns[part], read)
            tracer.applications[name] = tracer.applications.get(name, 0) + positions
            tracer.producer_axis[name], tracer.consumer_axis[name] = 0, 1
            tracer.gates[name] = 1 if part == "projection" else call.gates
            if weights.projection is not None and part != "projection":
                tracer.least[name] = len(units) + 1  # torch takes a projection for none that is not narrower
            tracer.composite.add(name)
    tracer.feedback.add(tracer.names[id(weights.recurrent)])
