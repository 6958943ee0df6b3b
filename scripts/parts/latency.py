"""How long one call takes: ``predict``, the network in torch, ONNX Runtime and C, on one thread."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch as th

from rl_crop.core.rng import isolated_rng, undisturbed
from rl_crop.export.actor import make_actor
from rl_crop.export.check import first_inputs, predict_arguments
from rl_crop.export.native import CActor, find_compiler
from rl_crop.export.onnx import OnnxActor
from rl_crop.export.samples import collect_samples
from rl_crop.export.source import find_source

# Seconds of a block of calls.
_BLOCK = 0.003


def ways_to_act(model: Any, files: Mapping[str, Path], env: Any, batch_size: int) -> dict[str, Callable[[], object]]:
    """
    :param model: an agent
    :param files: its exported files by suffix, ``.onnx`` and ``.c``
    :param env: an environment to take observations from, which is stepped
    :param batch_size: observations in a call; there can be as many as a comparison runs on
    :return: by name, a function that acts on the same observations. ``predict`` gets them normalised, the others as the
        environment gave them
    """
    with isolated_rng(0), undisturbed(model.policy):
        source = find_source(model, env)
        actor = make_actor(model.policy, source)
        samples = collect_samples(model, actor, source)
    whole = first_inputs(actor, samples)
    inputs = [values.take(range(batch_size), axis=port.batch_axis, mode="wrap") for port, values in zip(actor.inputs, whole)]
    arguments = predict_arguments(actor, source, inputs)
    tensors = [th.as_tensor(values) for values in inputs]

    def in_torch() -> object:
        with th.inference_mode():
            return actor(*tensors)

    ways: dict[str, Callable[[], object]] = {"predict": lambda: model.predict(**arguments), "torch": in_torch}
    if ".onnx" in files:
        runtime = OnnxActor(files[".onnx"].read_bytes())
        ways["ONNX Runtime"] = lambda: runtime(inputs)
    compiler = find_compiler()
    if ".c" in files and compiler is not None:
        ways["C"], _ = CActor(files[".c"].read_text(encoding="utf-8"), actor, compiler).bind(inputs)
    return ways


def median_seconds(ways: Mapping[Any, Callable[[], object]], repetitions: int) -> dict[Any, float]:
    """
    Time functions in turns, by the processor time of this thread: what else the machine does is not counted, and disturbs
    all of them alike.

    :param ways: what to time
    :param repetitions: blocks of calls of each
    :return: the median over blocks of the seconds of one call
    """
    counts = {}
    for name, call in ways.items():
        call()
        start = time.thread_time()
        for _ in range(5):
            call()
        counts[name] = max(int(_BLOCK / max((time.thread_time() - start) / 5, 1e-7)), 1)
    seconds: dict[Any, list[float]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, call in ways.items():
            start = time.thread_time()
            for _ in range(counts[name]):
                call()
            seconds[name].append((time.thread_time() - start) / counts[name])
    return {name: statistics.median(values) for name, values in seconds.items()}


def latency_rows(agents: Mapping[str, tuple[Any, Mapping[str, Path], Any]], repetitions: int) -> list[dict[str, Any]]:
    """
    Time agents side by side.

    :param agents: by name, an agent, its files by suffix, and an environment; the first is what the others are compared with
    :param repetitions: blocks of calls of each way of each agent
    :return: a row for every agent, way and batch size: microseconds of a call, and how often that goes into a call of
        ``predict`` and of the same way with the first agent
    """
    rows = []
    for batch_size in (1, 256):
        ways = {
            (agent, way): call
            for agent, (model, files, env) in agents.items()
            for way, call in ways_to_act(model, files, env, batch_size).items()
        }
        seconds = median_seconds(ways, repetitions)
        for (agent, way), value in seconds.items():
            row: dict[str, Any] = {"agent": agent, "way": way, "batch_size": batch_size, "microseconds": 1e6 * value}
            row["times_faster_than_predict"] = seconds[agent, "predict"] / value
            first = seconds.get((next(iter(agents)), way))
            row["times_faster_than_first"] = None if first is None else first / value
            rows.append(row)
    return rows


def latency_cells(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """
    :param rows: of :func:`latency_rows`
    :return: the header and the lines of a table, one line an agent and way; with one agent there is none to compare it with
    """
    sizes = sorted({row["batch_size"] for row in rows})
    agents = list(dict.fromkeys(row["agent"] for row in rows))
    header = ["agent", "way"]
    for size in sizes:
        header += [f"batch {size}, µs", "× predict", *([f"× {agents[0]}"] if len(agents) > 1 else [])]
    lines = []
    for agent, way in dict.fromkeys((row["agent"], row["way"]) for row in rows):
        line = [agent, way]
        for row in (row for row in rows if (row["agent"], row["way"]) == (agent, way)):
            first_ratio = row["times_faster_than_first"]
            line += [f"{row['microseconds']:.1f}", f"{row['times_faster_than_predict']:.1f}"]
            line += ["–" if first_ratio is None else f"{first_ratio:.1f}"] if len(agents) > 1 else []
        lines.append(line)
    return header, lines
