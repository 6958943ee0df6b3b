"""
A process of its own that trains one agent, to see what it takes to hold and train it.

Reads what to do as JSON from standard input and writes the result as JSON to standard output; see :mod:`.memory`.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch as th

from lab.performance.learners import build_agent, gradient_steps
from lab.performance.options import Options


def resident_peak() -> int:
    """:return: the most bytes this process has had in memory"""
    if sys.platform == "linux":  # where getrusage also counts what the process was before it became this program
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def settle() -> int:
    """:return: the bytes in memory now, which is where the peak begins anew, where the system can (Linux)"""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident_peak()


def allow(budget: int) -> None:
    """
    Let this process allocate no more than so many further bytes (Linux).

    :param budget: bytes
    """
    resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + budget, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def train(job: dict[str, Any]) -> dict[str, Any]:
    """
    :param job: ``algo``, ``arch``, ``steps``, ``options`` (``batch_size``, ``data`` and environments), and ``budget`` in bytes
        or ``None``
    :return: whether it fits, and the peak beyond what a tiny agent of the same kind takes
    """
    th.set_num_threads(1)
    options, cpu = Options(**job["options"]), th.device("cpu")
    gradient_steps(build_agent(job["algo"], [2, 2], options, cpu), options.batch_size)(job["steps"])  # libraries settle
    before = settle()
    if job["budget"] is not None:
        allow(job["budget"])
    try:
        gradient_steps(build_agent(job["algo"], job["arch"], options, cpu), options.batch_size)(job["steps"])
    except (MemoryError, RuntimeError) as error:  # torch's allocator raises the latter
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        return {"fits": False}
    return {"fits": True, "peak_bytes": resident_peak() - before}


if __name__ == "__main__":
    print(json.dumps(train(json.load(sys.stdin))))
