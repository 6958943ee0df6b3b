"""An actor of linear layers as one C99 source file, for machines without a runtime."""

import math

import torch as th

from rl_crop.export.actor import MASKS, Actor
from rl_crop.export.c_code import Code, Value, refusal
from rl_crop.export.c_functions import number
from rl_crop.export.c_network import write_network
from rl_crop.export.decision import Bounded, Choice
from rl_crop.export.preparation import ChannelsFirst, Normalize, OneHot, ToFloat


def to_c(actor: Actor, title: str) -> str:
    """
    :param actor: the actor
    :param title: what it is, for the comment at the top
    :return: the file's content: the weights and one function ``act``
    :raises PruningError: it has layers that only ONNX can express
    """
    code, prepared, offset = Code(), [], 0
    for port, steps in zip(actor.inputs, actor.preparations):
        value = Value(f"observation + {offset}" if offset else "observation", math.prod(port.shape))
        offset += value.size
        for step in steps:  # type: ignore[attr-defined]
            value = _prepare(code, step, value)
        prepared.append(value)
    _decide(code, actor, write_network(code, actor, prepared))

    statements = [f"float {value.name}[{value.size}];" for value in code.buffers] + [""] + code.body
    body = "\n".join(f"    {line}".rstrip() for line in statements)
    stack = 4 * sum(value.size for value in code.buffers)
    head = _comment(actor, title, stack)
    parts = [head, "#include <math.h>\n", *code.constants, *code.helpers.values(), f"{signature(actor)}\n{{\n{body}\n}}\n"]
    return "\n".join(parts)


def c_ports(actor: Actor) -> list[dict[str, str]]:
    """:return: the arguments of ``act`` by name, in words: inputs, outputs."""
    ports = actor.inputs[: actor.n_observations]
    inputs = {"observation": f"float[{sum(math.prod(port.shape) for port in ports)}]"}
    inputs |= {port.name: f"unsigned char[{math.prod(port.shape)}]" for port in actor.inputs if port.name == MASKS}
    kind = "float" if isinstance(actor.decision, Bounded) else "int"
    return [inputs, {"action": f"{kind}[{math.prod(actor.decision.shape)}]"}]


def signature(actor: Actor) -> str:
    """:return: that of the function ``act``."""
    inputs, outputs = c_ports(actor)
    arguments = [f"const {text.split('[')[0]} *{name}" for name, text in inputs.items()]
    arguments += [f"{text.split('[')[0]} *{name}" for name, text in outputs.items()]
    return f"void act({', '.join(arguments)})"


def _comment(actor: Actor, title: str, stack: int) -> str:
    """:return: what the file is, its arguments and how it is compiled."""
    inputs, outputs = c_ports(actor)
    lines = [f"{title}, written by rl_crop.", "", f"    {signature(actor)};", ""]
    lines.append(f"{inputs['observation']} observation: as the environment gives it.")
    if actor.keys is not None:
        start = 0
        for port in actor.inputs[: actor.n_observations]:
            lines.append(f"    {port.name}: {math.prod(port.shape)} numbers from [{start}]")
            start += math.prod(port.shape)
    if MASKS in inputs:
        lines.append(f"{inputs[MASKS]} {MASKS}: 0 for a choice that is forbidden; a null pointer allows all.")
    kind = "of the environment's scale" if isinstance(actor.decision, Bounded) else "each the index of a choice"
    lines += [
        f"{outputs['action']} action: {kind}.",
        "",
        f"It allocates nothing, keeps no state and needs about {stack:,} bytes of stack.",
        "As an object:          cc -std=c99 -O3 -c policy.c    (link with -lm)",
        "As a shared library:   cc -std=c99 -O3 -shared -fPIC policy.c -o policy.so -lm",
    ]
    # Names are the user's: they must not end the comment.
    return "/*\n" + "\n".join(f" * {line}".rstrip().replace("*/", "* /") for line in lines) + "\n */"


def _prepare(code: Code, step: th.nn.Module, x: Value) -> Value:
    """:return: the observation after one step of its preparation."""
    if isinstance(step, ChannelsFirst):
        raise refusal("images with their channels last")
    if isinstance(step, Normalize):
        y = code.buffer(x.size)
        mean, std = (code.constant("double", name, getattr(step, name)) for name in ("mean", "std"))
        code.call("normalize", x.name, mean, std, number(step.clip, ""), y.size, y.name)
        return y
    if isinstance(step, OneHot):
        y = code.buffer(sum(step.sizes))
        code.call("one_hot", x.name, code.constant("int", "sizes", th.tensor(step.sizes)), len(step.sizes), y.name)
        return y
    assert isinstance(step, ToFloat)
    return x if step.divisor == 1.0 else code.divide(x, step.divisor)


def _decide(code: Code, actor: Actor, scores: Value) -> None:
    """Write the last step."""
    decision = actor.decision
    if isinstance(decision, Bounded):
        low, high = (code.constant("float", name, getattr(decision, name)) for name in ("low", "high"))
        x = scores.item
        squashed = f"{low}[i] + 0.5f * ({x} + 1.0f) * ({high}[i] - {low}[i])"
        code.loop(scores.size, f"action[i] = {squashed if decision.squashed else f'fminf(fmaxf({x}, {low}[i]), {high}[i])'};")
    elif isinstance(decision, Choice):
        if decision.n_quantiles > 1:
            means = code.buffer(sum(decision.sizes))
            code.loop(means.size, f"{means.item} = 0.0f;")
            quantile = f"{scores.item} / {number(decision.n_quantiles)}"
            code.loop(scores.size, f"{means.name}[i % {means.size}] += {quantile};")
            scores = means
        masked, start = any(port.name == MASKS for port in actor.inputs), 0
        for i, size in enumerate(decision.sizes):
            mask = f"{MASKS} ? {MASKS} + {start} : 0" if masked else "0"
            place = f"{scores.name} + {start}" if start else scores.name
            code.body.append(f"action[{i}] = {code.helper('best')}({place}, {mask}, {size});")
            start += size
    else:
        code.loop(scores.size, f"action[i] = {scores.item} > 0.0f;")
