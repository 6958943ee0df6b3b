"""Whether the size that is found is the one that is needed: students of small networks whose width is known.

Fits wide networks, 10-192-3, to teachers of known width, and lets `sparsity="auto"` find a size by several criteria. Beside
each width stands the share of the student's variance that the cut leaves unexplained on new data. Prints a Markdown table.

Example::

    python scripts/lab/known_widths.py
    python scripts/lab/known_widths.py --widths 8 32 --activations tanh
"""

import copy
import os
from dataclasses import dataclass

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch as th
import torch.nn.functional as F  # noqa: N812
import tyro
from torch import nn

import rl_crop
from rl_crop.core.pruning.automatic import unexplained

ACTIVATIONS = {"tanh": nn.Tanh, "silu": nn.SiLU, "relu": nn.ReLU}
N_INPUTS, N_OUTPUTS, WIDE = 10, 3, 192
TEST_ROWS = 4096


@dataclass(frozen=True)
class Args:
    widths: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Of the teachers."""
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    """Of teacher and student: `tanh`, `silu`, `relu`."""
    tolerances: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Shares of the outputs' variance that may be left unexplained."""
    criteria: tuple[str, ...] = ("obs_crop", "obs", "random")
    """That say which units go."""
    steps: int = 3000
    """Optimizer steps of a student."""
    seed: int = 0
    """Of teacher, student and data."""


def loss(net: nn.Module, batch: tuple[th.Tensor, th.Tensor]) -> th.Tensor:
    """:return: the mean squared distance to the teacher."""
    return F.mse_loss(net(batch[0]), batch[1])


def teacher_of(width: int, activation: str, seed: int) -> nn.Sequential:
    """:return: a random network of a width, each unit of which matters."""
    th.manual_seed(seed)
    first, second = nn.Linear(N_INPUTS, width), nn.Linear(width, N_OUTPUTS)
    with th.no_grad():
        first.weight.normal_(0, 1.5 / N_INPUTS**0.5)
        first.bias.normal_(0, 0.5)
        second.weight.normal_(0, width**-0.5)
    return nn.Sequential(first, ACTIVATIONS[activation](), second).requires_grad_(False)


def student_of(teacher: nn.Sequential, activation: str, steps: int) -> nn.Sequential:
    """:return: a wide network that was fitted to another."""
    net = nn.Sequential(nn.Linear(N_INPUTS, WIDE), ACTIVATIONS[activation](), nn.Linear(WIDE, N_OUTPUTS))
    optimizer = th.optim.Adam(net.parameters(), lr=3e-3)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = th.randn(256, N_INPUTS)
        value = loss(net, (x, teacher(x)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return net


def main(args: Args) -> None:
    """Fit every student, find its sizes, and print them beside the known ones."""
    columns = [f"{criterion}, {tolerance:g}" for criterion in args.criteria for tolerance in args.tolerances]
    print("| activation | known | student, unexplained | " + " | ".join(columns) + " |")
    print("|---|---|---|" + "---|" * len(columns))
    for activation in args.activations:
        for width in args.widths:
            teacher = teacher_of(width, activation, args.seed)
            net = student_of(teacher, activation, args.steps)
            inputs = [th.randn(256, N_INPUTS) for _ in range(8)]
            batches = [(x, teacher(x)) for x in inputs]
            x = th.randn(TEST_ROWS, N_INPUTS)
            with th.no_grad():
                truth, dense = teacher(x), net(x)
            cells = []
            for criterion in args.criteria:
                for tolerance in args.tolerances:
                    small = copy.deepcopy(net)
                    report = rl_crop.prune_model(small, loss, batches, criterion=criterion, tolerance=tolerance)
                    with th.no_grad():
                        error = unexplained(dense, small(x))
                    cells.append(f"{report.widths['0'][1]} ({error:.1e})")
            print(f"| {activation} | {width} | {unexplained(truth, dense):.1e} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
