"""Acting: dense and pruned agents side by side, with ``predict``, in torch, in ONNX Runtime and in C."""

import tempfile
from pathlib import Path
from typing import Any

import torch as th

from lab.performance.agent_rows import agent_entries
from lab.performance.learners import build_agent
from lab.performance.options import Options
from lab.performance.table import SUBJECT, Column
from parts.latency import latency_rows
from rl_crop.export import export_actor
from rl_crop.sb3.agent import prune_policy

WIDTHS, SPARSITIES = (64, 256, 1024), (0.95,)
BLOCKS_A_ROUND = 30
"""Blocks of calls of each way: they take milliseconds."""
FORMATS = (".onnx", ".c")


def acting_speed(algo: str, width: int, sparsity: float, options: Options, device: th.device) -> dict[str, Any]:
    """
    :param algo: ``"sac"`` or ``"ppo"``
    :param width: of both hidden layers of every network
    :param sparsity: of every network
    :param options: rounds
    :param device: where they act
    :return: rows of :func:`~parts.latency.latency_rows`
    """
    dense, pruned = (build_agent(algo, [width, width], options, device) for _ in range(2))
    prune_policy(pruned, sparsity, batch_size=options.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        agents = {}
        for name, model in {"dense": dense, "pruned": pruned}.items():
            files = {suffix: Path(folder) / f"{name}{suffix}" for suffix in FORMATS}
            for path in files.values():
                export_actor(model, path)
            agents[name] = (model, files, None)
        return {"ways": latency_rows(agents, options.rounds * BLOCKS_A_ROUND)}


def by_way(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """:return: one line an agent, way and batch size, for a table"""
    return [{**row, **way, "arm": way["agent"], "agent": row["agent"]} for row in rows for way in row["ways"]]


COLUMNS = (
    *SUBJECT,
    Column("arm", "arm"),
    Column("way", "way"),
    Column("observations", "batch_size"),
    Column("µs", "microseconds", ".1f"),
    Column("× predict", "times_faster_than_predict", ".1f"),
    Column("× dense", "times_faster_than_first", ".2f"),
)

ENTRIES = agent_entries("acting", acting_speed, WIDTHS, SPARSITIES, cpu_alone=True)
