"""Compiled C actors in this process, to compare and to time them."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rl_crop.core.errors import PruningError
from rl_crop.export.actor import MASKS, Actor
from rl_crop.export.decision import Bounded


def find_compiler() -> str | None:
    """:return: the C compiler: what ``CC`` says, or ``cc``; ``None`` where there is none."""
    return shutil.which(os.environ.get("CC", "cc"))


class CActor:
    """
    A C actor, compiled into a library that is gone once this is.

    :param source: the file's content
    :param actor: what it was made from
    :param compiler: a C compiler
    :raises PruningError: the compiler refuses it
    """

    def __init__(self, source: str, actor: Actor, compiler: str) -> None:
        self.actor = actor
        self.kind = np.dtype(np.float32 if isinstance(actor.decision, Bounded) else np.intc)
        self.masked = any(port.name == MASKS for port in actor.inputs)
        self.n_in = sum(int(np.prod(port.shape)) for port in actor.inputs[: actor.n_observations])
        self.n_out = int(np.prod(actor.decision.shape))
        with tempfile.TemporaryDirectory() as folder:
            code, library = Path(folder) / "policy.c", Path(folder) / "policy.so"
            code.write_text(source + self._many(), encoding="utf-8")
            flags = ["-std=c99", "-O3", "-shared", "-fPIC", "-o", str(library)]
            result = subprocess.run([compiler, *flags, str(code), "-lm"], capture_output=True, text=True)
            if result.returncode:
                raise PruningError(f"{compiler} does not compile the file: {result.stderr.strip()[:500]}")
            self.library = ctypes.CDLL(str(library))

    def _many(self) -> str:
        """:return: a loop over observations, since a call from Python costs more than a small network."""
        kind = "float" if self.kind == np.float32 else "int"
        n_masks = sum(getattr(self.actor.decision, "sizes", ()))
        masks = f"masks ? masks + i * {n_masks} : 0, " if self.masked else ""
        return (
            f"\nvoid act_many(const float *x, const unsigned char *masks, {kind} *y, int n)\n{{\n    (void)masks;\n"
            f"    for (int i = 0; i < n; i++)\n        act(x + i * {self.n_in}, {masks}y + i * {self.n_out});\n}}\n"
        )

    def __call__(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """
        :param inputs: in the order of the actor's inputs
        :return: its action, of the shape and type that ``predict`` gives
        """
        call, y = self.bind(inputs)
        call()
        return [y.reshape(-1, *self.actor.decision.shape).astype(self.actor.decision.dtype)]

    def bind(self, inputs: list[np.ndarray]) -> tuple[Callable[[], object], np.ndarray]:
        """
        Lay inputs out as C reads them.

        :param inputs: in the order of the actor's inputs
        :return: a function that runs the actor on them, and the array that it fills
        """
        observations = inputs[: self.actor.n_observations]
        x = np.concatenate([part.reshape(len(part), -1).astype(np.float32) for part in observations], axis=1)
        masks = np.ascontiguousarray(inputs[-1], dtype=np.uint8) if self.masked else None
        y = np.zeros((len(x), self.n_out), self.kind)
        pointers = [None if values is None else ctypes.c_void_p(values.ctypes.data) for values in (x, masks, y)]
        n = ctypes.c_int(len(x))

        def call(_keep: object = (x, masks, y)) -> object:  # the pointers keep nothing alive
            return self.library.act_many(*pointers, n)

        return call, y
