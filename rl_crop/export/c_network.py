"""Layers as statements of C: the network is followed once, symbolically, and what it calls is written in order."""

import operator
from dataclasses import replace
from typing import Any

import torch as th
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from rl_crop.export.actor import Actor
from rl_crop.export.c_code import Code, Value, refusal
from rl_crop.export.c_functions import ACTIVATIONS, AS_MODULE, activation_of, number

_UNCHANGED = (nn.Identity, nn.Dropout)
_FLATTEN: tuple[Any, ...] = (th.flatten, "flatten")
_JOIN: tuple[Any, ...] = (th.cat, th.concat)
_ADD: tuple[Any, ...] = (operator.add, th.add)


def write_network(code: Code, actor: Actor, prepared: list[Value]) -> Value:
    """
    :param code: where to write
    :param actor: whose features extractor and head are written
    :param prepared: the observations, as the features extractor takes them
    :return: the scores
    :raises PruningError: there are layers that only ONNX can express
    """
    if actor.lstm is not None:
        raise refusal("a recurrent layer")
    graph = _follow(actor)
    modules: dict[Any, Any] = dict(graph.named_modules())
    values: dict[fx.Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = prepared[0] if actor.keys is None else dict(zip(actor.keys, prepared))
        elif node.op == "get_attr":
            raise refusal(f"a parameter outside of layers ({node.target})")
        elif node.op != "output":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            if not args:
                raise refusal(f"a call by keywords alone ({node.target})")
            target = modules[node.target] if node.op == "call_module" else node.target
            shape = tuple(node.meta["tensor_meta"].shape) if "tensor_meta" in node.meta else ()
            # What nothing else reads is overwritten.
            alone = isinstance(args[0], Value) and args[0].own and len(node.all_input_nodes[0].users) == 1
            values[node] = _step(code, target, args, kwargs, shape, alone)
    (output,) = graph.graph.find_nodes(op="output")
    return values[output.args[0]]


class _Network(nn.Module):
    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.features_extractor, self.head = actor.features_extractor, actor.head

    def forward(self, observation: Any) -> th.Tensor:
        return self.head(self.features_extractor(observation))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return type(module) in ACTIVATIONS or _is_batch_norm(module) or super().is_leaf_module(module, module_qualified_name)


def _follow(actor: Actor) -> fx.GraphModule:
    """:return: the calls of the network, each with the shape of its result for one observation."""
    network = _Network(actor)
    inputs: list[Any] = [steps(th.as_tensor(port.empty(1))) for port, steps in zip(actor.inputs, actor.preparations)]
    try:
        graph = fx.GraphModule(network, _Tracer().trace(network))
        graph.graph.eliminate_dead_code()
        with th.no_grad():
            ShapeProp(graph).propagate(inputs[0] if actor.keys is None else dict(zip(actor.keys, inputs)))
    except Exception as error:  # whatever a user's own forward function does that cannot be followed
        raise refusal(f"something that cannot be followed ({error})") from error
    return graph


def _step(code: Code, target: Any, args: Any, kwargs: Any, shape: tuple[int, ...], alone: bool) -> Value:
    """:return: the result of one call."""
    x, *rest = args
    if target is operator.getitem and isinstance(x, dict):
        return replace(x[rest[0]], own=False)
    flattened = (target in _FLATTEN or isinstance(target, nn.Flatten)) and shape == (1, x.size)
    if isinstance(target, _UNCHANGED) or flattened:  # arrays have no shape in C
        return replace(x, own=False)  # a second name, under which it must not be overwritten
    if target in _JOIN and len(shape) == 2 and [*rest, *kwargs.values()] in ([1], [-1]):
        return _join(code, x)
    if target in _ADD and not kwargs and isinstance(x, Value) and isinstance(rest[0], Value) and rest[0].size == x.size:
        y = code.buffer(x.size)
        code.loop(y.size, f"{y.item} = {x.item} + {rest[0].item};")
        return y
    module = AS_MODULE[target](*rest, **kwargs) if target in AS_MODULE else target
    if not isinstance(module, nn.Module):
        raise refusal(f"a call of {getattr(target, '__name__', target)}")
    if activation_of(module) is None and (shape != (1, shape[-1]) or not isinstance(x, Value)):
        raise refusal(f"a {type(module).__name__} of {len(shape)} axes")
    return _layer(code, module, x, x if alone else None)


def _join(code: Code, parts: list[Value]) -> Value:
    y, start = code.buffer(sum(part.size for part in parts)), 0
    for part in parts:
        code.loop(part.size, f"{y.name}[{start} + i] = {part.item};")
        start += part.size
    return y


def _layer(code: Code, layer: Any, x: Value, place: Value | None) -> Value:
    """:return: the output, in ``place`` where its size stays and one is given."""
    if type(layer) is nn.Linear:
        y = code.buffer(layer.out_features)
        bias = th.zeros(y.size) if layer.bias is None else layer.bias
        code.call("linear", x.name, code.weights(weight=layer.weight.T, bias=bias), x.size, y.size, y.name)
        return y
    y = place or code.buffer(x.size)
    if type(layer) is nn.LayerNorm:
        weight = th.ones(x.size) if layer.weight is None else layer.weight
        bias = th.zeros(x.size) if layer.bias is None else layer.bias
        code.call("layer_norm", x.name, code.weights(gain=weight, shift=bias), number(layer.eps), x.size, y.name)
    elif _is_batch_norm(layer):
        mean, gain, shift = _statistics(layer)
        code.call("batch_norm", x.name, code.weights(center=mean, gain=gain, shift=shift), x.size, y.name)
    elif not code.activate(layer, x, y):
        raise refusal(f"a {type(layer).__name__}")
    return y


def _is_batch_norm(module: Any) -> bool:
    """:return: its statistics are fixed: torch's, or the batch renormalisation of CrossQ."""
    return hasattr(module, "ra_mean") or (type(module) is nn.BatchNorm1d and module.running_mean is not None)


def _statistics(layer: Any) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """:return: mean, gain and shift."""
    if hasattr(layer, "ra_mean"):
        mean, variance, weight = layer.ra_mean, layer.ra_var, layer.scale
    else:
        mean, variance, weight = layer.running_mean, layer.running_var, layer.weight
    scale = (variance.double() + layer.eps).rsqrt()
    return (mean, scale * weight, layer.bias) if layer.affine else (mean, scale, th.zeros_like(mean))
