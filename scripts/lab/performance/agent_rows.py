"""The rows of a part that measures agents with two hidden layers: every device, width, algorithm and sparsity."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch as th

from lab.performance.options import Options

Entries = Callable[[Options], Iterator[tuple[dict[str, Any], Callable[[], Mapping[str, Any]]]]]
"""Given the options: what tells each row from the others, and a function that measures it."""
Measure = Callable[[str, int, float, Options, th.device], Mapping[str, Any]]
"""Given algorithm, width of both hidden layers of every network, sparsity of every network, options, and where agents are."""


def agent_entries(
    part: str, measure: Measure, widths: Sequence[int], sparsities: Sequence[float], cpu_alone: bool = False
) -> Entries:
    """
    :param part: its name
    :param measure: measures a row
    :param widths: by default
    :param sparsities: by default
    :param cpu_alone: whether accelerators are left out
    :return: the entries of the part
    """

    def entries(options: Options) -> Iterator[tuple[dict[str, Any], Callable[[], Mapping[str, Any]]]]:
        for device in [th.device("cpu")] if cpu_alone else options.torch_devices():
            for width in widths if options.widths is None else options.widths:
                for algo in options.agents:
                    for sparsity in sparsities if options.sparsities is None else options.sparsities:
                        identity = {"part": part, "agent": algo, "width": width, "device": device.type, "sparsity": sparsity}
                        yield identity, partial(measure, algo, width, sparsity, options, device)

    return entries
