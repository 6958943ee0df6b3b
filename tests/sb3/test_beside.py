"""PruningCallback beside Stable-Baselines3's own callbacks, its log and its report."""

import pytest
from stable_baselines3.common.callbacks import (
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.logger import KVWriter, Logger

import rl_crop
from tests.zoo.agents import AGENTS, SCORING, ppo
from tests.zoo.worlds import make_env

ORDERS = {
    "before": lambda prune, other: [prune, other],
    "after": lambda prune, other: [other, prune],
    "nested": lambda prune, other: CallbackList([CallbackList([other]), CallbackList([prune])]),
}


def env_of(model):
    return make_env("CartPole-v1" if model.observation_space.shape == (4,) else "Pendulum-v1")


def widths(path, algorithm):
    return algorithm.load(path).policy.net_arch


@pytest.mark.parametrize("order", ORDERS)
def test_eval_callback(make_plain, order, tmp_path):
    model = make_plain()
    evaluate = EvalCallback(env_of(model), eval_freq=32, n_eval_episodes=1, best_model_save_path=str(tmp_path), verbose=0)
    evaluate.best_mean_reward = -1e9
    prune = rl_crop.PruningCallback(0.6, when=128, verbose=0, **SCORING)
    model.learn(320, callback=ORDERS[order](prune, evaluate))
    assert widths(tmp_path / "best_model_dense.zip", type(model)) == [16, 16]
    assert widths(tmp_path / "best_model.zip", type(model)) == model.policy.net_arch != [16, 16]
    assert evaluate.best_mean_reward > -1e9


def test_between_gradual_events_the_dense_best_is_not_lost(make_plain, tmp_path):
    model = make_plain()
    evaluate = EvalCallback(env_of(model), eval_freq=32, n_eval_episodes=1, best_model_save_path=str(tmp_path), verbose=0)
    prune = rl_crop.PruningCallback(
        0.8, schedule="gradual", when=64, until=256, n_events=3, compensation="none", verbose=0, **SCORING
    )
    model.learn(384, callback=[evaluate, prune])
    found = {path.stem: widths(path, type(model)) for path in tmp_path.glob("*.zip")}
    assert set(found) == {"best_model", "best_model_dense", "best_model_event1", "best_model_event2"}
    assert found["best_model_dense"] == [16, 16] and found["best_model"] == model.policy.net_arch
    keys = list(model.policy.net_arch)
    sizes = [sum(sum(found[f"best_model_event{event}"][key]) for key in keys) for event in (1, 2)]
    assert 64 > sizes[0] > sizes[1] > sum(sum(model.policy.net_arch[key]) for key in keys)


def test_the_first_cut_leaves_a_dense_best_also_where_it_takes_all_events_along(tmp_path):
    model = ppo()
    evaluate = EvalCallback(env_of(model), eval_freq=32, n_eval_episodes=1, best_model_save_path=str(tmp_path), verbose=0)
    prune = rl_crop.PruningCallback(0.8, schedule="gradual", when=10_000, until=20_000, n_events=3, verbose=0, **SCORING)
    model.learn(128, callback=[evaluate, prune])
    assert [event["event"] for event in model.pruning_history] == [2]
    assert [path.stem for path in tmp_path.glob("*.zip")] == ["best_model_dense"]


@pytest.mark.parametrize("pruned", [True, False])
def test_patience_starts_again_after_the_cut(pruned):
    patience = StopTrainingOnNoModelImprovement(max_no_improvement_evals=3)
    model = ppo(learning_rate=0.0)  # which never improves
    evaluate = EvalCallback(make_env("CartPole-v1"), callback_after_eval=patience, eval_freq=32, n_eval_episodes=1, verbose=0)
    evaluate.best_mean_reward = patience.last_best_mean_reward = 1e6  # and is far from its best
    prune = rl_crop.PruningCallback(0.5, when=64, compensation="none", verbose=0, **SCORING)
    model.learn(640, callback=[prune, evaluate] if pruned else [evaluate])
    assert (model.num_timesteps > 192) if pruned else (model.num_timesteps == 128)


def test_checkpoints_before_and_after_the_cut_load(make_plain, tmp_path):
    model = make_plain()
    checkpoints = CheckpointCallback(save_freq=48, save_path=str(tmp_path))
    model.learn(256, callback=[rl_crop.PruningCallback(0.6, when=128, verbose=0, **SCORING), checkpoints])
    sizes = {}
    for path in tmp_path.glob("*.zip"):
        loaded = type(model).load(path, env=model.get_env())
        sizes[loaded.num_timesteps] = sum(p.numel() for p in loaded.policy.parameters())
        loaded.learn(64, reset_num_timesteps=False)
    ordered = [sizes[time] for time in sorted(sizes)]
    assert len(ordered) == 5 and ordered[0] == ordered[1] > ordered[-1] == ordered[-2]


def test_progress_bar(make_plain):
    model = make_plain().learn(192, callback=rl_crop.PruningCallback(0.6, when=64, **SCORING), progress_bar=True)
    assert len(model.pruning_history) == 1


class Memory(KVWriter):
    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append((step, dict(key_values)))

    def close(self):
        pass


@pytest.mark.parametrize("schedule", ["one_shot", "gradual"])
def test_log(schedule):
    memory, model = Memory(), ppo()
    model.set_logger(Logger(None, [memory]))
    callback = rl_crop.PruningCallback(0.8, when="lazy", earliest=64, latest=128, until=256, schedule=schedule, **SCORING)
    model.learn(448, callback=callback)
    rows = [row for _, row in memory.rows if "pruning/sparsity" in row]
    first, last = rows[0], rows[-1]
    begun = next(place for place, (_, row) in enumerate(memory.rows) if "pruning/sparsity" in row)
    assert len(rows) == len(memory.rows) - begun  # a curve over the rest of the run
    assert sum("pruning/seconds" in row for row in rows) == len(model.pruning_history)
    event = model.pruning_history[-1]
    assert last["pruning/sparsity"] >= 0.8 and first["pruning/sparsity"] <= last["pruning/sparsity"]
    assert last["pruning/n_params"] == event["n_params_after"] and last["pruning/flops"] == event["flops_after"]
    for layer, (_, after) in event["widths"].items():
        assert last[f"pruning/units/{layer}"] == after
    watched = [row for _, row in memory.rows if "pruning/distance/actor" in row]
    assert watched and all(row[f"pruning/{kind}/critic"] >= 0 for row in watched for kind in ("distance", "ratio"))


@pytest.mark.parametrize("schedule", ["one_shot", "iterative", "gradual"])
@pytest.mark.parametrize("name", ["ppo_discrete", "sac"])
def test_the_report_is_printed_once_and_whole(name, schedule, capsys):
    callback = rl_crop.PruningCallback(0.8, schedule=schedule, when=64, until=128, **SCORING)
    model = AGENTS[name]().learn(256, callback=callback)
    printed = capsys.readouterr().out
    first, last = model.pruning_history[0], model.pruning_history[-1]
    assert printed.count("units before") == 1
    assert f"parameters {first['n_params_before']:,} -> {last['n_params_after']:,}" in printed
    assert "gone in all: actor 8" in printed


def test_verbose_0_is_silent(capsys):
    ppo().learn(192, callback=rl_crop.PruningCallback(0.5, when=64, verbose=0, **SCORING))
    assert capsys.readouterr().out == ""
