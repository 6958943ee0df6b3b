"""A supervised run as a task of a study."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.supervised.config import SupervisedConfig
from lab.supervised.run import run


@dataclass(frozen=True)
class SupervisedTask(SupervisedConfig):
    """A configuration that runs itself, see :class:`~rl_crop.evaluation.tasks.OtherTask`; files of studies name this class."""

    def run(self, seed: int, widths: Mapping[str, int] | None = None) -> dict[str, Any]:
        """:return: the report of :func:`lab.supervised.run.run`, with the keys that a study looks for."""
        result = run(self, seed, widths=widths)
        seconds = result["seconds"]
        learn, learn_cpu = seconds["train"] + seconds["prune"], seconds["train_cpu"] + seconds["prune_cpu"]
        seconds = seconds | {"learn": learn, "learn_cpu": learn_cpu, "learn_with_evaluation": learn}
        return result | {"final": {"mean": result["test"]}, "seconds": seconds}
