"""An actor as an ONNX file."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.export.actor import MASKS, Actor, Port
from rl_crop.optional import require


def to_onnx(actor: Actor, opset: int | None) -> bytes:
    """
    :param actor: the actor
    :param opset: the version of the operators; ``None`` leaves it to the exporter of torch
    :return: the file's content. Batch axes are of any size; ``action_masks`` may be left out when it is run
    :raises PruningError: it cannot be expressed as a graph
    """
    require("onnxscript", "export")
    onnx = require("onnx", "export")
    # Two rows: a size of 1 would be taken for a constant.
    example = tuple(th.as_tensor(port.empty(2)) for port in actor.inputs)
    batch = th.export.Dim("batch")
    with _quiet():
        try:
            shapes = tuple({port.batch_axis: batch} for port in actor.inputs)
            graph = th.export.export(actor, example, dynamic_shapes=(shapes,), strict=False)
            program: Any = th.onnx.export(
                graph,
                dynamo=True,
                input_names=[port.name for port in actor.inputs],
                output_names=[port.name for port in actor.outputs],
                opset_version=opset,
                verbose=False,
            )
            model = program.model_proto
        except Exception as error:  # the exporter's own come from many places
            kind = type(actor.features_extractor).__name__
            raise PruningError(
                f"torch cannot turn the actor (features extractor {kind}) into an ONNX graph"
                f"{'' if opset is None else f' of opset {opset}'}: {error}"
            ) from error
    versions = [item.version for item in model.opset_import if not item.domain]
    if opset is not None and versions != [opset]:
        raise PruningError(f"torch cannot write opset {opset} and wrote {versions[0]}: leave it out, or name that one.")
    for port in actor.inputs:
        if port.name == MASKS:
            _make_optional(model, port, onnx)
    return model.SerializeToString()


def _make_optional(model: Any, port: Port, onnx: Any) -> None:
    """An initializer under the name of an input is its default: one row that allows everything, for any batch."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, *port.shape), port.dtype), port.name))
    (given,) = (value for value in model.graph.input if value.name == port.name)
    given.type.tensor_type.shape.dim[port.batch_axis].dim_param = "batch_or_1"


class OnnxActor:
    """
    An ONNX file that runs.

    :param content: of the file
    :raises PruningError: ONNX Runtime cannot load it
    """

    def __init__(self, content: bytes) -> None:
        runtime = require("onnxruntime", "export")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no base of their own
            raise PruningError(f"ONNX Runtime cannot load the file: {error}") from error
        self.names = [value.name for value in self.session.get_inputs()]
        self.names += [value.name for value in self.session.get_overridable_initializers()]

    def __call__(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """
        :param inputs: in the order of the file's inputs, those with a default last
        :return: its outputs
        """
        return self.session.run(None, dict(zip(self.names, inputs)))


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that are not installed, of its own calls, and of versions that it cannot write."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("torch.onnx", "onnxscript"))}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
