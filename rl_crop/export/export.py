"""The one call: an agent's actor as a file, compared with the agent before it is written."""

from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from rl_crop.core.errors import PruningError
from rl_crop.core.rng import isolated_rng, undisturbed
from rl_crop.export.actor import make_actor
from rl_crop.export.c import c_ports, to_c
from rl_crop.export.check import compare
from rl_crop.export.native import CActor, find_compiler
from rl_crop.export.onnx import OnnxActor, to_onnx
from rl_crop.export.report import ExportReport
from rl_crop.export.samples import collect_samples
from rl_crop.export.source import find_source
from rl_crop.files import write_atomically


def export_actor(
    model: BaseAlgorithm | BasePolicy,
    path: str | Path,
    *,
    env: gym.Env | VecEnv | None = None,
    opset: int | None = None,
) -> ExportReport:
    """
    Write an agent's deterministic actor to a file that runs without Stable-Baselines3: ONNX, or one C99 source file for
    networks of linear layers. The file takes an observation as the environment gives it and returns the action that the
    environment takes; ``VecNormalize`` and ``VecTransposeImage`` around the environment are folded in.

    The file is compared with ``model.predict(deterministic=True)`` before it is written. Nothing of the agent changes, its
    training environment included. An environment that is given is reset and stepped; without one the comparison runs on a
    fresh environment of the same kind, or, where none can be made, on what the agent's buffers hold and on samples of the
    space.

    :param model: an agent of Stable-Baselines3 or SB3-Contrib, pruned or not, or its policy
    :param path: the file to write, ending in ``.onnx`` or ``.c``; an existing one is replaced
    :param env: the environment with its wrappers, where the agent carries none: a loaded agent has no ``VecNormalize``
    :param opset: the version of ONNX's operators; by default that of torch's exporter
    :return: the size of the file, its inputs and outputs and its difference from ``predict``
    :raises PruningError: the actor cannot be expressed in this format, or the file differs from ``predict`` by more than
        1e-5; nothing is written
    :raises ImportError: ONNX is not installed; the message names the extra
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".c"):
        raise PruningError(f"{path}: the name must end in .onnx or .c, which says what is written.")
    if path.suffix == ".c" and opset is not None:
        raise PruningError("opset is a version of ONNX's operators: leave it out for a C file.")
    policy = model.policy if isinstance(model, BaseAlgorithm) else model
    with isolated_rng(0), undisturbed(policy):
        source = find_source(model, env)
        actor = make_actor(policy, source)
        samples = collect_samples(model, actor, source)
        notes: list[str] = []
        if source.env is None:
            notes.append("no environment is known: if the agent trained with VecNormalize or on images, give it by env=")
        run: OnnxActor | CActor | None
        if path.suffix == ".onnx":
            content = to_onnx(actor, opset)
            run = OnnxActor(content)
            ports = [{port.name: port.in_batches() for port in part} for part in (actor.inputs, actor.outputs)]
        else:
            source_code = to_c(actor, f"The deterministic actor of {type(model).__name__}")
            content, compiler = source_code.encode(), find_compiler()
            run = CActor(source_code, actor, compiler) if compiler else None
            if run is None:
                notes.append("there is no C compiler here: the file was not compared with predict")
            ports = c_ports(actor)
        difference, n_ties = (None, 0) if run is None else compare(run, model, actor, source, samples)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return ExportReport(
        path=path,
        n_bytes=len(content),
        inputs=ports[0],
        outputs=ports[1],
        folded=tuple(type(wrapper).__name__ for wrapper in source.wrappers),
        n_observations=len(samples),
        origin=samples.origin,
        largest_difference=difference,
        n_ties=n_ties,
        notes=tuple(notes),
    )
