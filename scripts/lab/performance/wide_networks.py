"""
What training a wide network takes, dense or pruned: memory and time, each arm in a process of its own.

``python -m lab.performance.wide_networks`` is that process. It reads a job as JSON from standard input and writes the result
as JSON to standard output.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from lab.performance.footprint import bytes_of
from lab.supervised.building import build_network, build_trainer, load_data
from lab.supervised.config import SupervisedConfig
from lab.supervised.widths import layer_widths
from rl_crop.core.errors import PruningError
from rl_crop.core.recipes.drivers import begun
from rl_crop.evaluation.building import build_env, build_model, build_pruning_callback
from rl_crop.evaluation.config import RunConfig
from rl_crop.evaluation.networks import read_widths
from rl_crop.evaluation.run import final_evaluation
from rl_crop.sb3.subject import algorithm_optimizers
from rl_crop.supervised.pruning import chosen_recipe

WARM_UP = {"sparsity": 0.5, "criterion": "span_crop", "when": 0.0}
"""A pruning that uses all that an event uses, for libraries to settle."""


class Meter:
    """
    Follows a process through the phases of a run.

    ``peaks`` are bytes of resident memory beyond those at the start, ``seconds`` and ``cpu_seconds`` what was spent, all by
    phase. Where the system cannot begin a peak anew (all but Linux), a phase's peak is that of the run until its end.
    """

    def __init__(self) -> None:
        from lab.performance.child import resident_peak, settle  # not on Windows

        self._peak, self._settle = resident_peak, settle
        self.peaks: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self.baseline = self._settle()
        self._clocks = time.perf_counter(), time.process_time()

    def lap(self, phase: str) -> None:
        """Ascribe what has been used since the last call to a phase."""
        peak, clocks = self._peak() - self.baseline, (time.perf_counter(), time.process_time())
        self.peaks[phase] = max(peak, self.peaks.get(phase, 0))
        for spent, now, before in zip((self.seconds, self.cpu_seconds), clocks, self._clocks, strict=True):
            spent[phase] = spent.get(phase, 0.0) + now - before
        self._settle()
        self._clocks = time.perf_counter(), time.process_time()


def held_bytes(parameters: Iterable[th.Tensor], optimizers: Iterable[th.optim.Optimizer]) -> dict[str, int]:
    """
    What training has to hold from step to step, counted by tensors.

    :param parameters: all of a model, targets included.
    :param optimizers: those that train it.
    :return: bytes of ``parameters``, of their ``gradients`` and of the ``optimizer`` state.
    """
    parameters = list(parameters)
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    return {
        "parameters": bytes_of(parameters),
        "gradients": bytes_of(parameter.grad for parameter in parameters),
        "optimizer": bytes_of(value for state in states for value in state.values()),
    }


def train_network(config: SupervisedConfig, seed: int, meter: Meter) -> dict[str, Any]:
    """
    Train a network, and prune it on the way where its configuration says so.

    :param config: the run.
    :param seed: of everything random.
    :param meter: follows it: ``build``, training ``before`` the event, the ``event``, and training ``after`` it.
    :return: the test's ``metric``, ``widths``, ``held`` bytes, ``n_steps``, and ``cut_at``: optimizer steps at the cut.
    """
    data = load_data(config)
    trainer = build_trainer(config, data, build_network(config, data, seed), seed)
    meter.lap("build")
    cut_at = None
    if config.pruning is None:
        trainer.train()
    else:
        run, batches = begun(trainer, *chosen_recipe(config.pruning), seed)

        def look(progress: float) -> None:
            nonlocal cut_at
            waits, size = cut_at is None, trainer.n_params
            if waits:
                meter.lap("before")
                run.update(progress, batches)
            if trainer.n_params != size:
                cut_at = trainer.n_done
            if waits:
                meter.lap("before" if cut_at is None else "event")

        look(0.0)
        trainer.train(1.0, look)
    meter.lap("after")
    held = held_bytes(trainer.model.parameters(), trainer.optimizers)
    facts = {"held": held, "n_params": trainer.n_params, "widths": layer_widths(trainer.model), "n_steps": trainer.n_done}
    return facts | {"metric": trainer.measure(data.test), "metric_name": trainer.objective.name, "cut_at": cut_at}


class _Laps(BaseCallback):
    """Before and after a pruning callback in a list: what it does at the start of a rollout is a phase of its own."""

    def __init__(self, meter: Meter, first: "_Laps | None" = None) -> None:
        super().__init__()
        self.meter, self.first = meter, first
        self.cut_at: int | None = None

    def _on_rollout_start(self) -> None:
        if self.first is None:
            self.meter.lap("before" if self.cut_at is None else "after")
        elif self.first.cut_at is None:
            cut = bool(getattr(self.model, "pruning_history", []))
            self.meter.lap("event" if cut else "before")
            self.first.cut_at = self.num_timesteps if cut else None

    def _on_step(self) -> bool:
        return True


def train_agent(config: RunConfig, seed: int, meter: Meter) -> dict[str, Any]:
    """See :func:`train_network`: the same of an agent of an off-policy algorithm; ``cut_at`` are timesteps."""
    env = build_env(config, seed)
    model = build_model(config, env, seed)
    meter.lap("build")
    laps = _Laps(meter)
    pruning = None if config.pruning is None else build_pruning_callback({"verbose": 0} | config.pruning)
    model.learn(config.n_timesteps, callback=None if pruning is None else [laps, pruning, _Laps(meter, laps)])
    meter.lap("after")
    held = held_bytes(model.policy.parameters(), algorithm_optimizers(model))
    facts = {"held": held, "n_params": sum(p.numel() for p in model.policy.parameters()), "widths": read_widths(model)}
    metric = final_evaluation(model, config, seed)["mean"]
    env.close()
    return facts | {"n_steps": config.n_timesteps, "metric": metric, "metric_name": "return", "cut_at": laps.cut_at}


def train(job: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param job: ``config``, the keys of a supervised run or (with ``algo``) of an agent; ``widths`` of its hidden layers where
        it is to have others; ``seed``; ``limit``, bytes that may be allocated beyond those at the start, or ``None``.
    :return: ``fits``; and, where it does, what :func:`train_network` says, and ``peaks``, ``seconds`` and ``cpu_seconds`` by
        phase.
    """
    th.set_num_threads(1)
    is_agent = "algo" in job["config"]
    config, small = configured(job["config"], job["widths"]), configured(job["config"], [4, 4], WARM_UP)
    run: Any = train_agent if is_agent else train_network
    if isinstance(small, RunConfig):
        first = int(small.hyperparams.get("learning_starts", 100))
        small = dataclasses.replace(small, n_timesteps=first + 50)
    else:
        small = dataclasses.replace(small, n_epochs=1)
    run(small, job["seed"], Meter())
    meter = Meter()
    if job["limit"] is not None:
        from lab.performance.child import allow

        allow(job["limit"])
    try:
        facts = run(config, job["seed"], meter)
    except (MemoryError, RuntimeError, PruningError) as error:  # torch's allocator raises the second, scoring the third
        if "memory" not in repr(error).lower():
            raise
        return {"fits": False, "failed_after": list(meter.peaks), "error": str(error)[:200]}
    return {"fits": True, **facts, "peaks": meter.peaks, "seconds": meter.seconds, "cpu_seconds": meter.cpu_seconds}


def configured(config: Mapping[str, Any], widths: Any = None, pruning: Any = None) -> SupervisedConfig | RunConfig:
    """
    :param config: the keys of a run.
    :param widths: of the hidden layers, where they are others.
    :param pruning: where it is another.
    :return: the run.
    """
    given = dict(config) if pruning is None else {**config, "pruning": pruning}
    if "algo" in given:
        run = RunConfig.from_dict(given)
        return run if widths is None else run.with_widths(widths)
    return SupervisedConfig.from_dict(
        given if widths is None else {**given, "network": {**given["network"], "widths": widths}}
    )


if __name__ == "__main__":
    print(json.dumps(train(json.load(sys.stdin))))
