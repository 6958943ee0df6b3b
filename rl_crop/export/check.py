"""The file against ``predict``, on the same numbers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.export.actor import MASKS, Actor, Port
from rl_crop.export.decision import Bounded
from rl_crop.export.samples import Observations
from rl_crop.export.source import Source

TOLERANCE = 1e-5
# Enough for the LSTM's states to become ones that the policy really reaches.
_ROUNDS = 3

Arrays = list[np.ndarray]


def compare(
    run: Callable[[Arrays], Arrays], model: Any, actor: Actor, source: Source, samples: Observations, seed: int = 0
) -> tuple[float, int]:
    """
    Compare a file with the policy, on whole batches and on one observation alone.

    :param run: from the inputs of the actor, in their order, to the outputs of the file
    :param model: what ``predict`` is asked of
    :param actor: what the file was made from
    :param source: what the file takes
    :param samples: the observations
    :param seed: of masks and starts of episodes
    :return: the largest difference (see :class:`ExportReport`) and the number of ties
    :raises PruningError: it is above 1e-5, or a discrete action differs that is no tie
    """
    rng = np.random.default_rng(seed)
    largest, n_ties = 0.0, 0
    inputs = first_inputs(actor, samples)
    for _ in range(1 if len(inputs) == actor.n_observations else _ROUNDS):
        expected = _expected(model, actor, source, inputs)
        for rows in (slice(None), slice(0, 1)):
            part = [_take(port, values, rows) for port, values in zip(actor.inputs, inputs)]
            wanted = [_take(port, values, rows) for port, values in zip(actor.outputs, expected)]
            difference, ties = _difference(actor, part, wanted, run(part))
            if rows == slice(None):
                largest, n_ties = max(largest, difference), n_ties + ties
        inputs = [*samples.observations, *_next(actor, inputs, expected, rng)]
    return largest, n_ties


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions on a GPU are calculated in single precision for a block: by default they are rounded to TF32."""
    cudnn = th.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False):
        yield


def first_inputs(actor: Actor, samples: Observations) -> Arrays:
    """
    :return: observations with all else that the file takes: the masks that the environment gave, or all actions allowed; all
        episodes at their start
    """

    def first(port: Port) -> np.ndarray:
        if port.name == MASKS and samples.masks is not None:
            return samples.masks
        values = port.empty(len(samples))
        return ~values if port.dtype == bool else values

    return [*samples.observations, *(first(port) for port in actor.inputs[actor.n_observations :])]


def _next(actor: Actor, inputs: Arrays, expected: Arrays, rng: np.random.Generator) -> Arrays:
    """:return: other inputs beside the observations: masks that forbid half, the states that the policy has come to."""
    states = iter(np.roll(values, 1, axis=port.batch_axis) for port, values in zip(actor.outputs[1:], expected[1:]))
    rest = zip(actor.inputs[actor.n_observations :], inputs[actor.n_observations :])
    return [rng.random(values.shape) < 0.5 if port.dtype == bool else next(states) for port, values in rest]


def _take(port: Port, values: np.ndarray, rows: slice) -> np.ndarray:
    return values[(slice(None),) * port.batch_axis + (rows,)]


def predict_arguments(actor: Actor, source: Source, inputs: Arrays) -> dict[str, Any]:
    """:return: the arguments of ``predict`` for the inputs of a file"""
    observations, rest = inputs[: actor.n_observations], inputs[actor.n_observations :]
    observation = source.wrap(observations[0] if actor.keys is None else dict(zip(actor.keys, observations)))
    arguments: dict[str, Any] = {"observation": observation, "deterministic": True}
    if actor.lstm is not None:
        hidden, cell, starts = rest
        return arguments | {"state": (hidden, cell), "episode_start": starts}
    return arguments | ({MASKS: rest[0]} if rest else {})


def _expected(model: Any, actor: Actor, source: Source, inputs: Arrays) -> Arrays:
    with full_precision():
        action, states = model.predict(**predict_arguments(actor, source, inputs))
    outputs = [np.asarray(action), *(states or () if actor.lstm is not None else ())]
    if not all(np.isfinite(values).all() for values in outputs):
        raise PruningError("The policy's own actions are not all finite numbers: there is nothing to compare the file with.")
    return outputs


def _difference(actor: Actor, inputs: Arrays, expected: Arrays, found: Arrays) -> tuple[float, int]:
    for port, wanted, values in zip(actor.outputs, expected, found):
        if values.shape != wanted.shape:
            raise PruningError(f"The file's {port.name} has the shape {values.shape}, predict's has {wanted.shape}.")
    scales: Arrays = [np.maximum(1.0, np.abs(values)) for values in expected]
    n_ties, pairs = 0, list(zip(expected, found, scales))
    if isinstance(actor.decision, Bounded):
        pairs[0] = (expected[0], found[0], actor.decision.scale(expected[0]))
    else:
        n_ties = _ties(actor, inputs, expected[0], found[0])
        pairs = pairs[1:]
    errors = [np.abs(wanted.astype(float) - values) / scale for wanted, values, scale in pairs]
    largest = max((float(error.max()) for error in errors), default=0.0)
    if not largest <= TOLERANCE:  # so that a NaN fails too
        raise PruningError(
            f"The file differs from predict by up to {largest:.1e}, above {TOLERANCE:.0e}: the policy does something in "
            "predict that is not among its networks, or its environment (env=...) is another than the one that it was "
            "trained in."
        )
    return largest, n_ties


def _ties(actor: Actor, inputs: Arrays, expected: np.ndarray, found: np.ndarray) -> int:
    different = expected != found
    if not different.any():
        return 0
    with th.no_grad():
        scores, masks, _ = actor.evaluate(*(th.as_tensor(values) for values in inputs))
        assert not isinstance(actor.decision, Bounded)
        real = different & ~actor.decision.ties(expected, found, scores, *masks)
    if real.any():
        raise PruningError(
            f"The file chooses another action than predict in {int(real.sum())} of {real.size} cases that are no ties: "
            "the policy does something in predict that is not among its networks."
        )
    return int(different.sum())
