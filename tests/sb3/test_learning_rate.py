"""The learning rate after a cut: at once and to the end, for every schedule, in every optimizer, and in the saved agent."""

import subprocess
import sys

import numpy as np
import pytest
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

import rl_crop
from rl_crop.sb3.learning_rate import scale_learning_rate
from rl_crop.sb3.subject import algorithm_optimizers
from tests.zoo.agents import SCORING, ppo, sac
from tests.zoo.callbacks import Watch
from tests.zoo.long import all_in_long

RATES = {
    "a number": 1e-3,
    "linear": LinearSchedule(1e-3, 1e-4, 0.8),
    "constant": FloatSchedule(ConstantSchedule(1e-3)),
    "a function": lambda progress_remaining: 1e-3 * progress_remaining**2,
}


def pruned(make, rate, **keywords):
    """:return: the agent; at the start of each rollout, its optimizers' rates as shares of what the schedule asks for."""
    given, factors = FloatSchedule(rate), {}

    def look(model):
        optimizers = algorithm_optimizers(model)
        if any(optimizer.state for optimizer in optimizers):
            asked = given(1 - model.num_timesteps / 512)  # as it was at the last update
            rates = {group["lr"] for optimizer in optimizers for group in optimizer.param_groups}
            factors[model.num_timesteps] = [rate / asked for rate in sorted(rates)]

    callback = rl_crop.PruningCallback(0.6, verbose=0, learning_rate_factor=4.0, **SCORING | keywords)
    return make(learning_rate=rate).learn(512, callback=[Watch(look), callback]), factors


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
@pytest.mark.parametrize("make", [ppo, sac])
def test_it_is_multiplied_at_the_cut_and_stays_so(make, rate):
    model, factors = pruned(make, rate, when=256)
    [event] = model.pruning_history
    # The rate of the update before the cut is what the optimizers have when the rollout after it starts.
    assert {now: found for now, found in factors.items() if now <= event["timesteps"]} and event["timesteps"] == 256
    for now, found in factors.items():
        assert found == [pytest.approx(4.0 if now > event["timesteps"] else 1.0)], now


def test_events_of_a_gradual_schedule_share_it():
    model, factors = pruned(ppo, 1e-3, schedule="gradual", n_events=2, when=128, until=0.5)
    first, second = (event["timesteps"] for event in model.pruning_history)
    assert (first, second) == (128, 256)
    for now, found in factors.items():
        assert found == [pytest.approx(1.0 if now <= first else 2.0 if now <= second else 4.0)], now


def test_events_that_the_end_of_training_passes_over_take_their_part_along():
    callback = rl_crop.PruningCallback(
        0.6, schedule="gradual", n_events=4, when=64, until=10_000, verbose=0, learning_rate_factor=16, **SCORING
    )
    model = ppo(learning_rate=1e-3).learn(192, callback=callback)
    assert [event["event"] for event in model.pruning_history] == [0, 3]
    assert [event["learning_rate_factor"] for event in model.pruning_history] == [2.0, pytest.approx(8.0)]
    assert model.learning_rate == pytest.approx(16e-3)


class Warming(LinearSchedule):
    """A user's own schedule that derives from one of Stable-Baselines3."""

    def __call__(self, progress_remaining):
        return min(1.0, 10 * (1.0 - progress_remaining)) * super().__call__(progress_remaining)


@pytest.mark.parametrize(
    "factor", [2, 2.0, np.float32(2.0), np.float16(2.0), np.int64(2)], ids=lambda factor: type(factor).__name__
)
@pytest.mark.parametrize("rate", [1e-3, Warming(1e-3, 1e-4, 0.8)], ids=["a number", "a class derived"])
def test_factors_and_schedules_of_other_classes(rate, factor):
    model = ppo(learning_rate=rate)
    model.learn(128, callback=rl_crop.PruningCallback(0.6, when=64, verbose=0, learning_rate_factor=factor, **SCORING))
    for progress in (1.0, 0.95, 0.4):
        assert model.lr_schedule(progress) == pytest.approx(2.0 * FloatSchedule(rate)(progress))
        assert FloatSchedule(model.learning_rate)(progress) == model.lr_schedule(progress)


def test_a_rate_that_was_set_in_the_schedule_alone_is_what_is_multiplied():
    model = ppo(learning_rate=1e-3)
    model.lr_schedule = FloatSchedule(1e-4)
    scale_learning_rate(model, 3.0)
    assert (model.lr_schedule(1.0), model.learning_rate) == (pytest.approx(3e-4), pytest.approx(3e-3))


def test_one_leaves_the_users_own_object():
    rate = RATES["a function"]
    model = ppo(learning_rate=rate).learn(128, callback=rl_crop.PruningCallback(0.6, when=64, verbose=0, **SCORING))
    assert model.learning_rate is rate and model.pruning_history


def test_a_resumed_run_does_not_multiply_again(tmp_path):
    model, _ = pruned(ppo, RATES["linear"], when=64)
    model.save(tmp_path / "agent.zip")
    callback = rl_crop.PruningCallback(0.6, when=64, verbose=0, learning_rate_factor=4.0, **SCORING)
    loaded = type(model).load(tmp_path / "agent.zip", env=model.get_env())
    loaded.learn(256, reset_num_timesteps=False, callback=callback)
    assert (loaded.learning_rate.start, loaded.learning_rate.end) == (4e-3, 4e-4) and len(loaded.pruning_history) == 1


STOCK = """
import sys
sys.modules["rl_crop"] = None
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

model = PPO.load(sys.argv[1], env=make_vec_env("CartPole-v1"))
print(model.lr_schedule(1.0), model.lr_schedule(0.5))
model.learn(64, reset_num_timesteps=False)
"""


@pytest.mark.parametrize("kind", all_in_long(RATES, ["linear"]))
def test_it_stays_where_rl_crop_is_not_installed(kind, tmp_path):
    rate = RATES[kind]
    model, _ = pruned(ppo, rate, when=64)
    model.save(tmp_path / "agent.zip")
    found = subprocess.run([sys.executable, "-c", STOCK, tmp_path / "agent.zip"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    expected = [4.0 * FloatSchedule(rate)(progress) for progress in (1.0, 0.5)]
    assert [float(word) for word in found.stdout.split()] == pytest.approx(expected)
