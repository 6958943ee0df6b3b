"""Times in turns: what is compared is measured side by side, round after round."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch as th

Call = Callable[[], object]
Times = dict[str, list[float]]
"""By name, one number a round."""
MIN_ROUNDS = 3


def seconds_of(call: Call, device: th.device) -> float:
    """
    :param call: what is timed
    :param device: where it works: on an accelerator, what it started is waited for
    :return: wall-clock seconds
    """
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def repeat(measure: Callable[[int], Mapping[str, float]], rounds: int, max_seconds: float = float("inf")) -> Times:
    """
    :param measure: measures one round, given its number
    :param rounds: how many
    :param max_seconds: after which no further round begins, once there are three
    :return: what each round measured, by name
    """
    times: Times = {}
    start = time.perf_counter()
    for number in range(rounds):
        if number >= MIN_ROUNDS and time.perf_counter() - start > max_seconds:
            break
        for name, value in measure(number).items():
            times.setdefault(name, []).append(value)
    return times


def in_turns(arms: Mapping[str, Call], device: th.device) -> Callable[[int], dict[str, float]]:
    """
    :param arms: what is compared, by name
    :param device: where they work
    :return: a function for :func:`repeat`: each round begins with another arm, so that none always follows the same one
    """
    names = list(arms)

    def measure(number: int) -> dict[str, float]:
        first = number % len(names)
        return {name: seconds_of(arms[name], device) for name in [*names[first:], *names[:first]]}

    return measure


def median_ratio(times: Times, over: str, under: str) -> float:
    """:return: the median over rounds of one time divided by another of the same round"""
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))


def milliseconds(times: Times, name: str, calls: int = 1) -> float:
    """:return: the median over rounds, of one of so many calls"""
    return 1e3 * statistics.median(times[name]) / calls


def _wait(device: th.device) -> None:
    if device.type == "cuda":
        th.cuda.synchronize(device)
