"""Memory: what an agent holds before and after the cut, what training takes, and the network that fits only when pruned."""

import sys
from typing import Any

import torch as th

from lab.performance.agent_rows import agent_entries
from lab.performance.footprint import agent_bytes
from lab.performance.learners import build_agent, gradient_steps
from lab.performance.options import Options
from lab.performance.process import result_of, run_job
from lab.performance.table import SUBJECT, Column
from rl_crop.core.errors import PruningError
from rl_crop.evaluation.networks import read_widths
from rl_crop.sb3.agent import prune_policy

WIDTHS, SPARSITIES = (64, 256, 1024, 4096), (0.95,)
MARGIN, ROOM = 1.25, 32 * 2**20
"""What the agents get where it is asked what fits: so many times what the pruned one took, and so many bytes."""


def memory(algo: str, width: int, sparsity: float, options: Options, device: th.device) -> dict[str, Any]:
    """
    :param algo: ``"sac"`` or ``"ppo"``
    :param width: of both hidden layers of every network
    :param sparsity: of every network
    :param options: environment, batch size and transitions
    :param device: where they are; peaks are of the CPU
    :return: by arm, bytes of parameters, optimizers, targets; the peak of a process that builds and trains such an agent,
        beyond that of a tiny one; and whether it can within ``budget_bytes``, which the pruned agent was given with a margin
    """
    model = build_agent(algo, [width, width], options, device)
    step = gradient_steps(model, options.batch_size)
    arms: dict[str, dict[str, Any]] = {}
    archs: dict[str, Any] = {"dense": [width, width]}
    for name in ("dense", "pruned"):
        if name == "pruned":
            prune_policy(model, sparsity, batch_size=options.batch_size)
            archs[name] = read_widths(model)
        step(options.steps)
        arms[name] = agent_bytes(model)
    del model, step
    for name, arch in archs.items():
        arms[name]["peak_bytes"] = in_process(algo, arch, None, options)["peak_bytes"]
    budget = round(MARGIN * arms["pruned"]["peak_bytes"]) + ROOM
    if sys.platform == "linux":
        for name, arch in archs.items():
            arms[name]["fits"] = in_process(algo, arch, budget, options)["fits"]
    return {"budget_bytes": budget, "widths": archs["pruned"], "arms": arms}


def in_process(algo: str, arch: Any, budget: int | None, options: Options) -> dict[str, Any]:
    """
    Build and train an agent in a process of its own.

    :param algo: ``"sac"`` or ``"ppo"``
    :param arch: its hidden widths
    :param budget: bytes that it may allocate, or ``None``
    :param options: environment, batch size and transitions
    :return: see :func:`~lab.performance.child.train`
    :raises PruningError: the process failed for another reason than memory
    """
    names = ("batch_size", "data", "sac_env", "ppo_env")
    job = {
        "algo": algo, "arch": arch, "steps": options.steps, "budget": budget,
        "options": {name: getattr(options, name) for name in names},
    }  # fmt: skip
    done = run_job("lab.performance.child", job)
    if done.returncode:
        raise PruningError(f"Training {algo} {arch} in a process of its own failed: {done.stderr.strip()[-2000:]}")
    return result_of(done)


COLUMNS = (
    *SUBJECT,
    Column("arm", "arm"),
    Column("parameters, bytes", "parameters_bytes", ","),
    Column("optimizer", "optimizer_bytes", ","),
    Column("targets", "targets_bytes", ","),
    Column("training peak", "peak_bytes", ","),
    Column("budget", "budget_bytes", ","),
    Column("fits", "fits"),
)

ENTRIES = agent_entries("memory", memory, WIDTHS, SPARSITIES, cpu_alone=True)
