"""The rows of a part that measures agents with two hidden layers: every device, width, algorithm and sparsity."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch as th

from lab.performance.options import Options

CPU = (th.device("cpu"),)


def agent_rows(
    part: str, options: Options, widths: Sequence[int], sparsities: Sequence[float], devices: Sequence[th.device]
) -> Iterator[tuple[dict[str, Any], tuple[str, int, float], th.device]]:
    """
    :param part: its name
    :param options: which agents; widths and sparsities where they are given
    :param widths: by default
    :param sparsities: by default
    :param devices: where agents are
    :return: what tells each row from the others; algorithm, width and sparsity; and the device
    """
    for device in devices:
        for width in widths if options.widths is None else options.widths:
            for algo in options.agents:
                for sparsity in sparsities if options.sparsities is None else options.sparsities:
                    identity = {"part": part, "agent": algo, "width": width, "device": device.type, "sparsity": sparsity}
                    yield identity, (algo, width, sparsity), device
