"""From the first change until the event is recorded all is one transaction: a failure anywhere puts everything back."""

from pkgutil import resolve_name

import pytest
from stable_baselines3.common.callbacks import EvalCallback

import rl_crop
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.masking.masks import attached_masks
from tests.zoo.agents import AGENTS, SCORING, ppo
from tests.zoo.snapshots import agent_state, same, unmoved
from tests.zoo.worlds import make_env

OF_FUNCTIONS = ["rl_crop.sb3.state.attached_masks", "rl_crop.sb3.state.history", "rl_crop.core.pruning.steps.merge_reports"]
OF_THE_CALLBACK = {
    "masks": "rl_crop.sb3.state.attached_masks",
    "event": "rl_crop.sb3.state.record_event",
    "rate": "rl_crop.sb3.callback.scale_learning_rate",
    "best": "rl_crop.sb3.callback.keep_dense_best",
    "written": "rl_crop.sb3.state.AgentState.write",
    "announced": "rl_crop.sb3.state.AgentState.announce",
    "described": "rl_crop.core.recipes.engine.PruningEngine._described",
}
KINDS = {
    "cut": {"sparsity": 0.6},
    "gradual": {"sparsity": 0.6, "schedule": "gradual", "n_events": 2, "until": 128},
    "masks": {"sparsity": 0.6, "structured": False},
    "moving": {"sparsity": 0.6, "recipe": "rigl"},
}


class Fault:
    """Fails once at its first call after it is armed, before or after the work."""

    def __init__(self, function, error, after):
        self.function, self.error, self.after = function, error, after
        self.armed = self.raised = False

    def __call__(self, *args, **keywords):
        fails, value = self.armed and not self.raised, None
        if self.after or not fails:
            value = self.function(*args, **keywords)
        if fails:
            self.raised = True
            raise self.error("injected")
        return value


def inject(monkeypatch, target, error, after=False):
    fault = Fault(resolve_name(target), error, after)
    monkeypatch.setattr(target, lambda *args, **keywords: fault(*args, **keywords))
    return fault


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("target", OF_FUNCTIONS)
def test_a_function_whose_event_cannot_be_recorded(monkeypatch, target, structured, error):
    model = ppo().learn(64)
    settings = {"criterion": "magnitude", "compensation": "none", "structured": structured, **SCORING}
    ways = {
        "prune": lambda: rl_crop.prune_policy(model, 0.6, **settings),
        "apply": rl_crop.plan_policy_pruning(model, 0.6, **settings).apply,
    }
    if "merge" in target:
        del ways["apply"]
    for act in ways.values():
        with monkeypatch.context() as patch, unmoved(model):
            fault = inject(patch, target, error)
            fault.armed = True
            with pytest.raises(rl_crop.PruningError if error is MemoryError else error):
                act()
            assert fault.raised and attached_masks(named_tensors(model.policy)).keys() == set()
        assert not getattr(model, "pruning_history", [])
    ways["prune"]()
    assert len(model.pruning_history) == 1


def watched(model, callback):
    """What a failed event must leave alone, beside the agent's own state."""
    return agent_state(model) | {
        "rate": (model.learning_rate, model.lr_schedule),
        "memory": list(map(id, callback.memory.parts)),
        "engine": [callback.engine.timetable.n_done, callback.engine.outcome.gone, callback.engine.finished],
        "masks": attached_masks(named_tensors(model.policy)),
    }


PLACES = [(stage, kind) for stage in OF_THE_CALLBACK for kind in KINDS if (stage, kind) != ("best", "moving")]


@pytest.mark.parametrize(("stage", "kind", "after"), [(*place, bool(n % 2)) for n, place in enumerate(PLACES)])
def test_an_event_that_cannot_be_recorded(monkeypatch, stage, kind, after):
    keywords = {"when": 64, "criterion": "magnitude", "compensation": "none", "verbose": 0, "latest": 250, **SCORING}
    callback = rl_crop.PruningCallback(**keywords | KINDS[kind])
    fault = inject(monkeypatch, OF_THE_CALLBACK[stage], MemoryError, after)
    original, seen = rl_crop.core.recipes.engine.PruningEngine._change, []

    def change(engine, *args):
        if engine.outcome.reports or (kind == "moving" and engine._n_changes) or seen:
            return original(engine, *args)
        before, fault.armed = watched(callback.model, callback), True
        try:
            return original(engine, *args)
        finally:
            fault.armed = False
            seen.append(fault.raised)
            now = watched(callback.model, callback)
            assert not [key for key, value in before.items() if fault.raised and not same(value, now[key])]

    monkeypatch.setattr("rl_crop.core.recipes.engine.PruningEngine._change", change)
    model = ppo()
    with pytest.warns(UserWarning, match="No pruning at .*MemoryError"):
        model.learn(256, callback=callback)
    assert seen == [True]
    events = model.pruning_history
    assert [event["event"] for event in events] == ([0, 1] if kind == "gradual" else [0])
    assert events[-1]["finished"] and 0.6 <= events[-1]["reached"]["actor"] < 0.75


def test_interrupted_while_it_is_recorded_the_best_model_keeps_its_name(monkeypatch, tmp_path):
    model = ppo()
    evaluate = EvalCallback(make_env("CartPole-v1"), eval_freq=32, n_eval_episodes=1, best_model_save_path=str(tmp_path))
    inject(monkeypatch, OF_THE_CALLBACK["announced"], KeyboardInterrupt).armed = True
    with pytest.raises(KeyboardInterrupt):
        model.learn(256, callback=[evaluate, rl_crop.PruningCallback(0.6, when=64, verbose=0, **SCORING)])
    assert [path.name for path in tmp_path.glob("*.zip")] == ["best_model.zip"] and evaluate.best_mean_reward > -1e9
    assert model.pruning_history == [] and model.policy.net_arch == [16, 16]


@pytest.mark.parametrize("name", ["sac", "dqn", "recurrent", "crossq", "td3_own_shared"])
def test_a_resumed_run_cuts_once(monkeypatch, name):
    """The failure that left the agent cut, and nothing recorded, so that the next call cut it a second time."""
    keywords = {"sparsity": 0.6, "when": 64, "criterion": "magnitude", "compensation": "none", "verbose": 0, **SCORING}
    model = AGENTS[name]()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        inject(patch, OF_THE_CALLBACK["masks"], KeyboardInterrupt).armed = True
        model.learn(192, callback=rl_crop.PruningCallback(**keywords))
    assert model.pruning_history == []
    model.learn(192, callback=rl_crop.PruningCallback(**keywords), reset_num_timesteps=False)
    [event] = model.pruning_history
    assert all(0.6 <= share < 0.75 for share in event["reached"].values())
