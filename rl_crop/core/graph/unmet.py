"""
What may read a network although no function that was looked at runs it: a decoder of an auxiliary loss, a head of another.

Nothing says what such a parameter reads. Within a part of the model it is taken to read anything of that part; beside the
model, or right below its root, anything of a width that one of its first layers can take.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch as th

from rl_crop.core.graph.propagation import INPUT
from rl_crop.core.graph.tracer import LabelTracer

Tensors = Mapping[str, th.Tensor]


def pin_unmet(
    tracer: LabelTracer,
    model: th.nn.Module,
    tensors: Tensors,
    strangers: Mapping[str, Tensors],
    known: Iterable[str] = (),
) -> None:
    """
    Keep whole what parameters may read that the traced functions have not met.

    :param tracer: after these functions.
    :param model: the root module.
    :param tensors: its parameters and buffers by name.
    :param strangers: tensors beside the model, by what to call them.
    :param known: names (of tensors, or of modules that hold them) of which it is known what they read.
    """
    known = tuple(known)
    unmet = [
        name
        for name, tensor in tensors.items()
        if isinstance(tensor, th.nn.Parameter) and tensor.dim() and tensor.numel() and name not in tracer.met
        and not any(name == other or name.startswith(f"{other}.") for other in known)
    ]  # fmt: skip
    below_root: dict[str, dict[str, th.Tensor]] = {}
    for name in unmet:
        scope = _scope(name, tracer.met)
        if not scope:
            below_root.setdefault(name.partition(".")[0], {})[name] = tensors[name]
            continue
        own = {id(parameter) for parameter in model.get_submodule(scope).parameters()}
        for producer in tracer.producer_axis:
            if id(tensors[producer]) in own:
                tracer.freeze(tracer.axes_of[producer][0], _why(name))
    for what, stranger in (strangers | below_root).items():  # type: ignore[operator]
        _pin_widths(tracer, set(_entries(stranger)), _why(what))


def _why(reader: str) -> str:
    return f"may be read by {reader}, which no function that was looked at runs; if it is not, name that in ignore="


def _scope(name: str, met: set[str]) -> str:
    """:return: the smallest module around a parameter of which some parameter is met; ``""`` for the root."""
    scope = name.rpartition(".")[0]
    while scope and not any(other.startswith(f"{scope}.") for other in met):
        scope = scope.rpartition(".")[0]
    return scope


def _entries(stranger: Tensors) -> Iterator[int]:
    """:return: the widths that a stranger may be given: of what its weights read and no other of them makes."""
    weights = {name: tensor for name, tensor in stranger.items() if tensor.dim() > 1}
    made = {weight.shape[0] for weight in weights.values()}
    read = [weight.shape[1] for weight in weights.values()]
    yield from [width for width in read if width not in made] or read
    owners = {name.rpartition(".")[0] for name in weights}
    for name, tensor in stranger.items():
        if tensor.dim() == 1 and name.rpartition(".")[0] not in owners:  # not the bias of one of these weights
            yield len(tensor)


def _pin_widths(tracer: LabelTracer, entries: set[int], why: str) -> None:
    raw = {len(labels) for labels, reason in tracer.frozen if reason == INPUT}
    for axis_of in (tracer.producer_axis, tracer.consumer_axis):
        for name, axis in axis_of.items():
            labels = tracer.axes_of[name][axis]
            if any(_takes(entry, len(labels), raw) for entry in entries):
                tracer.freeze(labels, why)


def _takes(entry: int, width: int, raw: set[int]) -> bool:
    """Whether an input may hold so many units: alone, several times, or beside a few numbers more."""
    if entry == width or width == 1:
        return entry == width
    return entry not in raw and width < entry and (entry < 2 * width or entry % width == 0)
