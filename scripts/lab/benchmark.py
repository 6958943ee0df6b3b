"""What pruning costs and what it saves, beside gradient steps of the same agent, its rivals and the limit.

Parts: ``cost`` of a pruning event in gradient steps, ``training`` after it, whole ``runs`` (read from a study), ``acting``,
``memory``, ``growth`` with the number of parameters, and other ways to make the ``update``. All times of a row come from one
run, in which arms take turns; ratios are medians over rounds. One thread; let nothing else run beside it. With ``--out`` the
file is written after every row, and the same command goes on where it was interrupted.

Examples::

    python scripts/lab/benchmark.py --out runs/benchmark/event.json
    python scripts/lab/benchmark.py --part training update --widths 64 256 --out runs/benchmark/training.json
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KINETO_LOG_LEVEL", "5")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import tyro

from lab.performance.options import Options
from lab.performance.parts import run


def main(options: Options) -> None:
    """Measure what was asked for, print tables, and write the rows."""
    run(options)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
