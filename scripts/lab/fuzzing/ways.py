"""The ways of pruning an agent: at once, by plan and apply, by a callback in training, or the bare policy."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from lab.fuzzing.accounting import check_slices, values_of
from lab.fuzzing.building import LENGTH
from lab.fuzzing.checks import check, check_same, state
from lab.fuzzing.drawing import Combination
from rl_crop.core.pruning.report import PruningReport
from rl_crop.sb3.agent import plan_policy_pruning, prune_policy
from rl_crop.sb3.callback import PruningCallback

SCORING: dict[str, Any] = {"n_batches": 2, "batch_size": 32}
"""Small scoring batches."""
Cut = tuple[Mapping[str, tuple[int, int]], int]
"""Widths by layer, before and after, and the parameters that are left, as a report has them."""


class Watch(BaseCallback):
    """Remembers the agent as it was before the callback after it in the list was called."""

    before: dict[str, Any] | None = None

    def _look(self) -> None:
        self.before = state(self.model)

    _on_training_start = _on_rollout_start = _on_rollout_end = _on_training_end = _look

    def _on_step(self) -> bool:
        return True


def way_of(model: BaseAlgorithm, chosen: Combination) -> tuple[Callable[[], Cut], Watch | None]:
    """
    :param model: the agent.
    :param chosen: how it is pruned.
    :return: what prunes it and says what was done; and, where that trains it, what remembers it as it was just before.
    """
    settings: dict[str, Any] = {"networks": chosen.networks, **chosen.settings, "seed": chosen.seed}
    if chosen.way == "plan":
        return lambda: _plan_and_apply(model, chosen, settings), None
    if chosen.way == "late_plan":
        watch = Watch()
        return lambda: _plan_and_apply(model, chosen, settings, watch), watch
    if chosen.way == "callback":
        watch = Watch()
        return lambda: _learn(model, chosen, settings, watch), watch
    settings |= {"schedule": chosen.schedule}
    if chosen.way == "prune_policy":
        return lambda: _described(prune_policy(model, chosen.sparsity, **settings, **SCORING)), None
    batches = _batches(model, chosen.batches)  # drawn here: they move the generators
    return lambda: _described(prune_policy(model.policy, chosen.sparsity, batches=batches, ent_coef=0.01, **settings)), None


def _described(report: PruningReport) -> Cut:
    return report.widths, report.n_params_after


def _plan_and_apply(model: BaseAlgorithm, chosen: Combination, settings: dict[str, Any], watch: Watch | None = None) -> Cut:
    before = state(model)
    plan = plan_policy_pruning(model, chosen.sparsity, **settings, **SCORING)
    check_same(before, state(model), "a plan")
    if watch is not None:
        model.learn(n_steps_of(model), callback=watch, reset_num_timesteps=False)
    values = values_of(plan)
    report = plan.apply()
    if chosen.settings["compensation"] == "none":
        check_slices(plan, values)
    return _described(report)


def _learn(model: BaseAlgorithm, chosen: Combination, settings: dict[str, Any], watch: Watch) -> Cut:
    callback = PruningCallback(
        chosen.sparsity, when=chosen.when, schedule=chosen.schedule, n_events=3, until=0.7, latest=0.6, verbose=0,
        **settings, **SCORING,
    )  # fmt: skip
    model.learn(2 * n_steps_of(model), callback=[watch, callback])
    history = model.pruning_history  # type: ignore[attr-defined]
    check(bool(history), "the callback pruned nothing")
    widths: dict[str, tuple[int, int]] = {}
    for event in history:
        for name, (before, after) in event["widths"].items():
            widths[name] = (widths.get(name, (before, after))[0], after)
    return widths, history[-1]["n_params_after"]


def _batches(model: BaseAlgorithm, form: str) -> list[Any]:
    if isinstance(model, OnPolicyAlgorithm):
        batches: list[Any] = list(model.rollout_buffer.get(8))[:3]
    elif isinstance(model, OffPolicyAlgorithm):
        assert model.replay_buffer is not None
        batches = [model.replay_buffer.sample(32, env=model.get_vec_normalize_env()) for _ in range(2)]
    else:  # it keeps none
        return [model.policy.obs_to_tensor(observations_of(model))[0] for _ in range(2)]
    if form == "mapping":
        return [batch._asdict() for batch in batches]
    return [batch.observations for batch in batches] if form == "observations" else batches


def observations_of(model: BaseAlgorithm, n: int = 6) -> Any:
    """:return: the same few observations every time, as ``predict`` takes them."""
    space = model.observation_space
    space.seed(n)
    drawn = [space.sample() for _ in range(n)]
    return {key: np.stack([one[key] for one in drawn]) for key in drawn[0]} if isinstance(drawn[0], dict) else np.stack(drawn)


def n_steps_of(model: Any) -> int:
    """:return: timesteps for a few updates."""
    if isinstance(model, OnPolicyAlgorithm):
        return 2 * model.n_steps * model.n_envs
    if isinstance(model, OffPolicyAlgorithm):
        return 48
    return 2 * model.n_delta * LENGTH * 2
