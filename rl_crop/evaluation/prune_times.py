"""When the automatic triggers would cut a run, found by watching a dense one."""

from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_crop.core.recipes.triggers import SETTLED
from rl_crop.sb3.agent import plan_policy_pruning, prunable_parameters
from rl_crop.sb3.data import BATCH_SIZE, first_data
from rl_crop.sb3.timing import TRIGGERS, Timetable


class PruneTimeRecorder(BaseCallback):
    """
    Follows triggers as ``PruningCallback`` does, cuts nothing, and ends training once all have fired.

    :param sparsity: of the proposals that the early pruning indicator compares, and of the paper's rule
    :param earliest: no cut before this share of the budget
    :param latest: a cut at this share of the budget at the latest
    :param n_timesteps: the budget
    :param kappas: of ``"lazy"``, which is watched once for each
    """

    def __init__(
        self, sparsity: float, earliest: float, latest: float, n_timesteps: int, kappas: Sequence[float] = (SETTLED,)
    ) -> None:
        super().__init__()
        self.sparsity = sparsity
        self.earliest, self.latest, self.n_timesteps = earliest, latest, n_timesteps
        self.kappas = kappas
        self.timetables: dict[str, Timetable] = {}
        self.fired: dict[str, dict[str, Any]] = {}
        self._next_check = 0

    def _on_training_start(self) -> None:
        start = first_data(self.model, BATCH_SIZE)
        lazy = [(f"lazy, κ = {kappa:g}", "lazy", kappa) for kappa in self.kappas]
        for name, rule, kappa in (*lazy, *((rule, rule, SETTLED) for rule in TRIGGERS if rule != "lazy")):
            bounds = (self.latest, self.earliest, self.latest)
            timetable = Timetable(rule, *bounds, 1, self.n_timesteps, start, kappa=kappa)
            self.timetables[name] = timetable
            timetable.watch(prunable_parameters(self.model), self.sparsity)

    def _on_rollout_start(self) -> None:
        if not isinstance(self.model, OnPolicyAlgorithm):
            self._check()

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, OnPolicyAlgorithm):
            self._check()

    def _on_step(self) -> bool:
        return len(self.fired) < len(self.timetables)

    def _check(self) -> None:
        if self.num_timesteps < self._next_check:
            return
        interval = next(iter(self.timetables.values())).interval(isinstance(self.model, OnPolicyAlgorithm))
        self._next_check = self.num_timesteps + interval
        for rule, timetable in self.timetables.items():
            if rule not in self.fired and timetable.check(self.num_timesteps, self._proposal):
                self.fired[rule] = {"timesteps": self.num_timesteps, "decided_by": timetable.decided_by}

    def _proposal(self) -> dict[str, int]:
        plan = plan_policy_pruning(self.model, self.sparsity, criterion="magnitude", compensation="none")
        return plan.widths_after
