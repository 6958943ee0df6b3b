"""How time and memory of an event grow with the parameters, and the exponent that fits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th

from lab.performance.cost import STAGES, event_cost
from lab.performance.learners import plain_network
from lab.performance.options import Options
from lab.performance.table import Column

SPARSITY = 0.95
CASE = ("crop", "least_squares")
OVERHEAD = 1_000_000
"""Below so many parameters an event is mostly the overhead of calls, which does not grow."""
FITTED = ("score_ms", "event_ms", "gradient_step_ms", "plan_bytes", "score_bytes")


def measure(n_parameters: int, options: Options, device: th.device) -> dict[str, Any]:
    """
    :param n_parameters: about how many
    :param options: rounds, batch size
    :param device: where it is
    :return: parameters, and what :func:`~lab.performance.cost.event_cost` returns
    """
    learner, parameters = plain_network(n_parameters, options.batch_size, device)
    cost = event_cost(learner, SPARSITY, *CASE, options.rounds, options.steps, options.max_seconds)
    stages = {f"{stage}_ms": cost[f"{stage}_steps"] * cost["gradient_step_ms"] for stage in STAGES}
    return {"parameters": parameters} | cost | stages


def exponent(parameters: Sequence[float], values: Sequence[float]) -> float | None:
    """
    :param parameters: sizes
    :param values: what was measured at each
    :return: b of the power law a nᵇ that fits best (least squares of logarithms); ``None`` where there are not two sizes
    """
    if len(set(parameters)) < 2:
        return None
    return float(np.polyfit(np.log(parameters), np.log(values), 1)[0])


def exponents(rows: Sequence[Mapping[str, Any]], least: int = 0) -> dict[str, float | None]:
    """
    :param rows: of the part
    :param least: parameters below which rows are left out
    :return: the exponent of each time and size
    """
    used = [row for row in rows if row["parameters"] >= least]
    return {key: exponent([row["parameters"] for row in used], [row[key] for row in used]) for key in FITTED}


def entries(options: Options) -> Iterator[tuple[dict[str, Any], Callable[[], Mapping[str, Any]]]]:
    """:return: what tells each row from the others, and a function that measures it"""
    for device in options.torch_devices():
        for wanted in options.parameters:
            identity = {"part": "growth", "wanted": wanted, "device": device.type, "sparsity": SPARSITY}
            yield identity, lambda n=wanted, device=device: measure(n, options, device)  # type: ignore[misc]


def footer(rows: list[dict[str, Any]]) -> str:
    """:return: the exponents by device, over all sizes and over those that are more than overhead"""
    lines = []
    for device in dict.fromkeys(row["device"] for row in rows):
        own = [row for row in rows if row["device"] == device]
        for what, least in (("all sizes", 0), (f"from {OVERHEAD:,} parameters", 0.9 * OVERHEAD)):
            found = {key: value for key, value in exponents(own, least).items() if value is not None}  # type: ignore[arg-type]
            if found:
                fits = ", ".join(f"{key} {value:.2f}" for key, value in found.items())
                lines.append(f"exponents in parameters, {device}, {what}: {fits}")
    return "\n".join(lines)


COLUMNS = (
    Column("parameters", "parameters", ","),
    Column("device", "device"),
    Column("step, ms", "gradient_step_ms", ".2f"),
    Column("event, steps", "gradient_steps", ".1f"),
    *(Column(f"{stage}, ms", f"{stage}_ms", ".1f") for stage in STAGES),
    Column("event, products", "event_in_products", ".2f"),
    Column("plan, bytes", "plan_bytes", ","),
    Column("score, copies", "score_copies", ".2f"),
)
