"""What a measurement depends on beside the code: the machine, its versions, and whether something else runs on it."""

import importlib.metadata
import os
import platform
from typing import Any

import torch as th

from rl_crop.evaluation.run import versions

OTHERS = ("torch-pruning", "onnxruntime", "mujoco")


def machine_facts() -> dict[str, Any]:
    """:return: processor, cores, threads, accelerator and versions; no names of the machine, and no paths"""
    found = {}
    for package in OTHERS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "vector_instructions": th.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": th.get_num_threads(),
        "accelerator": th.cuda.get_device_name() if th.cuda.is_available() else None,
        "versions": versions() | found,
    }


def load_average() -> float | None:
    """:return: how many processes wanted to run over the last minute, this one among them; ``None`` where nobody counts"""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def is_busy(load: float | None, own: float) -> bool:
    """
    :param load: of :func:`load_average`
    :param own: what this process brings itself
    :return: whether something else runs
    """
    return load is not None and load > own + 0.5


def devices() -> list[str]:
    """:return: the CPU, and CUDA where there is one"""
    return ["cpu", *(["cuda"] if th.cuda.is_available() else [])]
