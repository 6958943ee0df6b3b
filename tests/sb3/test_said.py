"""Nothing is ignored in silence: what a callback does, but hardly as it was meant, is said in one line."""

import warnings

import pytest
from stable_baselines3.common.callbacks import BaseCallback

import rl_crop
from tests.zoo.agents import SCORING, ppo


class Stop(BaseCallback):
    """Ends training at a time."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def _on_step(self):
        return self.num_timesteps < self.at


def pruning(**keywords):
    return rl_crop.PruningCallback(**{"sparsity": 0.5, "verbose": 0, **SCORING, **keywords})


def test_a_time_beyond_the_run_is_said_before_it_and_the_cut_comes_at_its_end():
    model = ppo()
    with pytest.warns(UserWarning, match="when=5,000 is not before the end of this run .192 timesteps") as said:
        model.learn(192, callback=pruning(when=5000))
    assert any("nothing has trained since" in str(each.message) for each in said) and len(model.pruning_history) == 1


def test_a_run_that_is_stopped_before_its_cut_says_that_nothing_trained_after_it():
    model = ppo()
    with pytest.warns(UserWarning, match="The cut came when training had ended, at .* nothing has trained since"):
        model.learn(1000, callback=[pruning(when=0.9), Stop(70)])
    assert len(model.pruning_history) == 1


def test_two_callbacks_in_one_list_are_said_once_and_both_act():
    model = ppo()
    both = [pruning(sparsity={"actor": 0.5}, when=64), pruning(sparsity={"critic": 0.5}, when=64)]
    with pytest.warns(UserWarning, match="holds 2 callbacks of the class PruningCallback") as said:
        model.learn(320, callback=both)
    assert sum("holds 2 callbacks" in str(each.message) for each in said) == 1
    assert [sorted(event["sparsity"]) for event in model.pruning_history] and len(model.pruning_history) == 2


def test_an_early_cut_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ppo().learn(320, callback=pruning(when=64))
