"""Scores of a study's runs: paired seeds, failures counted, returns normalised between a random policy and the dense arm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rl_crop.evaluation.results import Results, Run
from rl_crop.evaluation.statistics import interquartile_mean, normalise

DENSE = "dense"


@dataclass(frozen=True)
class Scores:
    """
    :param results: the results of the study
    :param random: by task, the mean return of a random policy on each of its own seeds; tasks may be missing
    """

    results: Results
    random: Mapping[str, Sequence[float]]

    def of(self, task: str, arm: str, sparsity: str) -> dict[int, float]:
        """
        The final return of every seed. A failed run counts with the return of a random policy; where that is not known, with
        the lowest return of the task.

        :param task: its name
        :param arm: the arm's name
        :param sparsity: its sparsity
        :return: returns by seed
        """
        scores = {run.key.seed: run.score for run in self.results.of(task, arm, sparsity)}
        scores |= dict.fromkeys(self.results.failed(task, arm, sparsity), self._of_failures[task])
        return dict(sorted(scores.items()))

    def values(self, task: str, arm: str, sparsity: str) -> list[float]:
        """
        :param task: its name
        :param arm: the arm's name
        :param sparsity: its sparsity
        :return: the final returns in the order of the seeds
        """
        return list(self.of(task, arm, sparsity).values())

    def normalised(self, task: str, values: Sequence[float]) -> list[float] | None:
        """
        :param task: its name
        :param values: returns
        :return: 0 for a random policy, 1 for the dense arm; ``None`` where one of the two is not known or does not lead
        """
        scale = self.scale[task]
        return None if scale is None else [float(value) for value in normalise(values, *scale)]

    @cached_property
    def scale(self) -> dict[str, tuple[float, float] | None]:
        """By task, the returns of a random policy and of the dense arm: interquartile means over their seeds."""
        found: dict[str, tuple[float, float] | None] = {}
        for task in self.results.tasks:
            dense = self.values(task, DENSE, "0")
            pair = (
                (interquartile_mean(self.random[task]), interquartile_mean(dense)) if task in self.random and dense else None
            )
            found[task] = pair if pair is not None and pair[1] > pair[0] else None
        return found

    @cached_property
    def _of_failures(self) -> dict[str, float]:
        runs: dict[str, list[Run]] = {task: [] for task in self.results.tasks}
        for key, run in self.results.runs.items():
            runs[key.task].append(run)
        return {
            task: float(np.mean(self.random[task])) if task in self.random else min(run.score for run in found)
            for task, found in runs.items()
        }
