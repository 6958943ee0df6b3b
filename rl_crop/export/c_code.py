"""Pieces of a C file: constants, helper functions, buffers and statements, each named once."""

from dataclasses import dataclass, field

import torch as th
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.export.c_functions import FUNCTIONS, activation_of, array, number


@dataclass(frozen=True)
class Value:
    """
    An array in C.

    :param name: an expression that points at its first number
    :param size: how many there are
    :param own: a buffer, which may be overwritten where nothing else reads it
    """

    name: str
    size: int
    own: bool = False

    @property
    def item(self) -> str:
        """An expression for one of its numbers, that of ``i``."""
        return f"{self.name}[i]" if self.name.isidentifier() else f"({self.name})[i]"


@dataclass
class Code:
    """
    What a function and its file are made of.

    :param constants: definitions of arrays
    :param helpers: definitions of functions by name
    :param buffers: the function's own arrays
    :param body: its statements
    """

    constants: list[str] = field(default_factory=list)
    helpers: dict[str, str] = field(default_factory=dict)
    buffers: list[Value] = field(default_factory=list)
    body: list[str] = field(default_factory=list)

    def constant(self, kind: str, name: str, values: th.Tensor) -> str:
        """Define an array of ``float``, ``double`` or ``int``. :return: its name, which gets a number."""
        name = f"{name}{sum(f' {name}' in constant for constant in self.constants)}"
        self.constants.append(array(kind, name, values))
        return name

    def weights(self, **tensors: th.Tensor) -> str:
        """
        Define arrays of weights. :return: their names, with commas

        :raises PruningError: a weight is not a finite number
        """
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise PruningError("A weight is not a finite number: there is nothing to export.")
        return ", ".join(self.constant("float", name, tensor) for name, tensor in tensors.items())

    def buffer(self, size: int) -> Value:
        """Declare an array. :return: it."""
        self.buffers.append(Value(f"x{len(self.buffers)}", size, own=True))
        return self.buffers[-1]

    def call(self, name: str, *arguments: object) -> None:
        """Call a helper function."""
        self.body.append(f"{self.helper(name)}({', '.join(map(str, arguments))});")

    def helper(self, name: str) -> str:
        """Have a helper function written. :return: its name."""
        self.helpers[name] = FUNCTIONS[name].lstrip("\n")
        return name

    def loop(self, size: int, statement: str) -> None:
        """Have a statement run for every ``i``."""
        self.body += [f"for (int i = 0; i < {size}; i++)", f"    {statement}"]

    def activate(self, module: nn.Module, x: Value, y: Value) -> bool:
        """Write an activation, from one array to another or the same. :return: whether it is known."""
        activation = activation_of(module)
        if activation is None:
            return False
        if activation.body:
            self.helpers[activation.name] = activation.define()
        self.loop(y.size, f"{y.item} = {activation.call(module, x.item)};")
        return True

    def divide(self, x: Value, divisor: float) -> Value:
        """Write a division. :return: its result."""
        y = self.buffer(x.size)
        self.loop(y.size, f"{y.item} = {x.item} / {number(divisor)};")
        return y


def refusal(what: str) -> PruningError:
    """:return: an error that names the other format."""
    return PruningError(f"The actor has {what}, which is not written as C: export it to a file ending in .onnx instead.")
