"""
Where cells run: in processes of this machine, or on a Ray cluster.

Both give every cell a fresh process: one that is killed takes no other cell along, and no run inherits another's state. What
becomes of a cell whose process died is for the sweep to decide.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from rl_crop.evaluation.claims import Claim
from rl_crop.evaluation.config import ConfigError
from rl_crop.evaluation.store import Store, compute
from rl_crop.evaluation.study import Cell
from rl_crop.optional import require

# What cells import, some of it when they first need it: longer than a small cell takes to run. What is missing is passed over.
_PRELOADED = ["rl_crop.evaluation.store", "torch._dynamo", "sklearn.datasets"]

# What multiprocessing tells of every process whose server is gone, though they may live.
_SERVER_DIED = 255


class Engine(Protocol):
    """What a sweep needs of a place where cells run."""

    @property
    def capacity(self) -> int:
        """Cells that may run side by side, at this moment."""
        ...

    def start(self, store: Store, cell: Cell, claim: Claim) -> None:
        """
        Start a cell, whose claim must be held for as long as it runs. Its result, or the error that it raised, is in the store
        when :meth:`ended` names it. What it depends on is in the store.
        """
        ...

    def ended(self, timeout: float) -> list[tuple[Cell, str | None]]:
        """
        Wait until a cell ends, a number of seconds at most; all of them where nothing runs.

        :return: the cells that ended, each with the reason why its process died without a result, or ``None``
        """
        ...

    def stop(self) -> None:
        """End every cell that runs."""
        ...


class LocalEngine:
    """
    Processes of this machine. On Linux they are forks of a server that has done the imports, with the environment that the
    first of them was started in; it is the one that :mod:`multiprocessing` keeps for the whole program.

    :param jobs: cells that run side by side
    """

    def __init__(self, jobs: int = 1) -> None:
        self.capacity = jobs
        self._context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            self._context.set_forkserver_preload(_PRELOADED)
        self._running: dict[BaseProcess, Cell] = {}

    def start(self, store: Store, cell: Cell, claim: Claim) -> None:
        """See :class:`Engine`. A cell whose sweep is killed runs to its end, and keeps its claim until then."""
        process = self._context.Process(target=_work, args=(store, cell, claim), daemon=True)
        process.start()
        self._running[process] = cell

    def ended(self, timeout: float) -> list[tuple[Cell, str | None]]:
        """See :class:`Engine`."""
        sentinels = wait([process.sentinel for process in self._running], timeout)
        ended = []
        for process in [process for process in self._running if process.sentinel in sentinels]:
            process.join()
            if process.exitcode == _SERVER_DIED and process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)  # else it would run on beside its successor
            ended.append((self._running.pop(process), _reason(process.exitcode)))
        return ended

    def stop(self) -> None:
        """See :class:`Engine`."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.join()
        self._running.clear()


def _reason(exitcode: int | None) -> str | None:
    if exitcode is not None and exitcode < 0:
        return f"{exitcode} ({signal.Signals(-exitcode).name})"
    return None if exitcode == 0 else str(exitcode)


def _work(store: Store, cell: Cell, claim: Claim) -> None:
    # So the sweep ends its cells, and the run directory of a cell goes as it unwinds
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        store.record(cell, _compute_on_one_thread(cell, store.widths(cell), store.keep_runs))
    except KeyboardInterrupt:  # the sweep is interrupted as well, and says so
        os._exit(130)
    except Exception:
        store.record_failure(cell, traceback.format_exc())
    claim.release()  # a sweep that was killed cannot, and until this process has ended, the next one sees the claim held


def _compute_on_one_thread(cell: Cell, widths: Any, keep_runs: Path | None) -> dict[str, Any]:
    import torch as th

    th.set_num_threads(1)
    return compute(cell, widths, keep_runs)


class RayEngine:
    """
    A Ray cluster whose nodes have this package installed. Results come back to this process, which writes them: the nodes
    need not see its files. Run directories are left on the node where the cell ran.

    :param address: the cluster, as ``ray.init`` understands it; a session that is open already is used as it is
    :param jobs: cells that run side by side; ``None`` for one on each CPU that the cluster has
    :raises ConfigError: there is no such cluster
    """

    def __init__(self, address: str = "auto", jobs: int | None = None) -> None:
        self._ray = require("ray", "ray")
        if not self._ray.is_initialized():
            try:
                self._ray.init(address=address, log_to_driver=False, logging_level="warning")
            except ConnectionError as error:
                raise ConfigError(
                    f"There is no Ray cluster at `{address}`: start one with `ray start --head`, or name it with --ray-address"
                ) from error
        self._jobs = jobs
        # A dead worker is the sweep's business, as it is where cells run locally.
        self._compute = self._ray.remote(num_cpus=1, max_retries=0, max_calls=1)(_compute_on_one_thread)
        self._running: dict[Any, tuple[Store, Cell]] = {}

    @property
    def capacity(self) -> int:
        """See :class:`Engine`."""
        return self._jobs or int(self._ray.cluster_resources().get("CPU", 0))

    def start(self, store: Store, cell: Cell, claim: Claim) -> None:
        """See :class:`Engine`. Ray ends the tasks of a process that is killed, so the claim stays here."""
        keep_runs = store.keep_runs.absolute() if store.keep_runs else None
        self._running[self._compute.remote(cell, store.widths(cell), keep_runs)] = store, cell

    def ended(self, timeout: float) -> list[tuple[Cell, str | None]]:
        """See :class:`Engine`."""
        if not self._running:
            time.sleep(timeout)
            return []
        return [self._collect(task) for task in self._ray.wait(list(self._running), timeout=timeout)[0]]

    def _collect(self, task: Any) -> tuple[Cell, str | None]:
        store, cell = self._running.pop(task)
        try:
            store.record(cell, self._ray.get(task))
        except self._ray.exceptions.RayTaskError as error:  # the cell raised it
            store.record_failure(cell, str(error))
        except self._ray.exceptions.RayError as error:
            return cell, f"unknown ({type(error).__name__})"
        return cell, None

    def stop(self) -> None:
        """See :class:`Engine`."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running.clear()
