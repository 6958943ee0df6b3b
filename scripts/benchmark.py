"""What pruning costs and what it saves, beside gradient steps of the same agent, its rivals and the limit.

Parts: ``cost`` of a pruning event in gradient steps, ``training`` after it, whole ``runs`` (read from a study), ``acting``,
``memory``, ``growth`` with the number of parameters, and other ways to make the ``update``. All times of a row come from one
run, in which arms take turns; ratios are medians over rounds. One thread; let nothing else run beside it. With ``--out`` the
file is written after every row, and the same command goes on where it was interrupted.

Examples::

    python scripts/benchmark.py --out docs/results/benchmark/event.json
    python scripts/benchmark.py --part training update --widths 64 256 --out docs/results/benchmark/training.json
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KINETO_LOG_LEVEL", "5")

import tyro

from rl_crop.evaluation.benchmark.options import Options
from rl_crop.evaluation.benchmark.parts import run


def main(options: Options) -> None:
    """Measure what was asked for, print tables, and write the rows."""
    run(options)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
