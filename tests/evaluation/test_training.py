"""The training of a run: what pruning takes is told from what training takes."""

import dataclasses
import types

import pytest
from stable_baselines3.common.callbacks import BaseCallback

from rl_crop.evaluation.building import build_env, build_model
from rl_crop.evaluation.training import Training


class Clock(BaseCallback):
    """Time stands still but for ten seconds a rollout, and one second for every look of a criterion."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.now, self.looks = 0.0, 0
        clock = types.SimpleNamespace(perf_counter=lambda: self.now, process_time=lambda: 2 * self.now)
        monkeypatch.setattr("rl_crop.evaluation.training.time", clock)

    def criterion(self, context):
        self.now, self.looks = self.now + 1.0, self.looks + 1
        return {name: weight.detach().abs() for name, weight in context.parameters.items()}

    def _on_rollout_end(self):
        self.now += 10.0

    def _on_step(self):
        return True


@pytest.mark.parametrize("recipe", ["efficient_convnets", "gmp", "imp"])
def test_the_time_of_pruning_is_told_from_that_of_training(tiny, monkeypatch, recipe):
    clock = Clock(monkeypatch)
    pruning = {"recipe": recipe, "sparsity": 0.5, "criterion": clock.criterion}
    config = dataclasses.replace(tiny, pruning=pruning)
    model, eval_env = build_model(config, build_env(config, 0), 0), build_env(config, 1, 1)
    training = Training(config, print_cuts=False)
    training.run(model, 0, [clock], eval_env)
    assert clock.looks >= 1 and training.pruning.seconds == clock.looks
    assert training.pruning.cpu_seconds == 2 * clock.looks
    assert training.n_timesteps == (5 if recipe == "imp" else 1) * 256
