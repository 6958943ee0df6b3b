"""The arms of a comparison of footprints: what each runs, each in a process of its own, and a table of them."""

from collections.abc import Mapping
from typing import Any

from lab.performance.process import result_of, run_job
from rl_crop.core.errors import PruningError

RETURN_FREED = {"MALLOC_MMAP_THRESHOLD_": str(2**22)}
"""Lets the system have large tensors back as soon as they are freed (glibc), so that a later phase is not ascribed them."""


def in_process(job: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param job: see :func:`~lab.performance.wide_networks.train`.
    :return: its result, from a process of its own; under a limit, one that the system ended does not fit either.
    :raises PruningError: the process failed for another reason than memory.
    """
    done = run_job("lab.performance.wide_networks", job, **RETURN_FREED)
    if done.returncode < 0 and job["limit"] is not None:
        return {"fits": False, "failed_after": [], "error": f"ended by signal {-done.returncode}"}
    if done.returncode:
        raise PruningError(f"A run in a process of its own failed: {done.stderr.strip()[-2000:]}")
    return result_of(done)


def with_width(config: Mapping[str, Any], width: int) -> dict[str, Any]:
    """
    :param config: the keys of a run whose networks have two hidden layers.
    :param width: units of each.
    :return: the keys of the same run with these widths.
    """
    key, name = ("policy_kwargs", "net_arch") if "algo" in config else ("network", "widths")
    return {**config, key: {**config[key], name: [width, width]}}


def arm_job(
    config: Mapping[str, Any], arm: Mapping[str, Any], results: Mapping[str, Any], seed: int, limit: int | None
) -> dict[str, Any]:
    """
    :param config: the keys of a run.
    :param arm: ``pruning``, or ``like``, the arm whose final widths a network has from the start; neither trains densely.
    :param results: those of earlier arms.
    :param seed: of everything random.
    :param limit: see :func:`~lab.performance.wide_networks.train`.
    :return: the job.
    :raises PruningError: the arm that another is like has not run before it.
    """
    widths = None
    if "like" in arm:
        if not results.get(arm["like"], {}).get("fits"):
            raise PruningError(f"The arm is like {arm['like']!r}, which has not run before it.")
        widths = results[arm["like"]]["widths"]
        widths = widths if "algo" in config else list(widths.values())[:-1]  # the last layer is the output
    return {"config": {**config, "pruning": arm.get("pruning")}, "widths": widths, "seed": seed, "limit": limit}


def telling_limit(results: Mapping[str, Any]) -> int | None:
    """
    :param results: by arm, ``dense`` among them.
    :return: bytes halfway between the peak of dense training and that of the pruned arm next below it; ``None`` where none is.
    """
    peaks = {name: max(result["peaks"].values()) for name, result in results.items()}
    dense = peaks.get("dense", 0)
    below = [peak for name, peak in peaks.items() if results[name]["cut_at"] is not None and peak < dense]
    return (dense + max(below)) // 2 if below else None


def table(results: Mapping[str, Any]) -> str:
    """
    :param results: ``free`` and ``limited`` by arm, and the ``limit``.
    :return: a Markdown table; memory in MB (10⁶ bytes), seconds of processor time.
    """
    limit = results["limit"]
    header = ["arm", "peak", "event", "training after", "held", "event, s", "training, s", "metric", "parameters"]
    lines = ["| " + " | ".join([*header, f"within {limit / 1e6:.0f} MB" if limit else "limited"]) + " |", "|---" * 10 + "|"]
    for name, result in results["free"].items():
        peaks, spent = result["peaks"], result["cpu_seconds"]
        cells = [name, _mega(max(peaks.values())), _mega(peaks.get("event")), _mega(peaks["after"])]
        cells += [_mega(sum(result["held"].values())), f"{spent['event']:.1f}" if "event" in spent else "–"]
        cells += [f"{spent.get('before', 0.0) + spent['after']:.1f}", f"{result['metric']:.3f}", f"{result['n_params']:,}"]
        fits = results["limited"].get(name, {}).get("fits")
        lines.append("| " + " | ".join([*cells, "–" if fits is None else "runs" if fits else "out of memory"]) + " |")
    return "\n".join(lines)


def _mega(n_bytes: float | None) -> str:
    return "–" if n_bytes is None else f"{n_bytes / 1e6:.1f}"
