"""An exception that ends a call of ``learn`` leaves nothing behind that acts: no shrinking, no noise, no pending cut."""

import gc

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

import rl_crop
from rl_crop.core.recipes.hooks import _ATTACHED
from rl_crop.sb3.task import AgentTask
from tests.zoo.agents import AGENTS, SCORING, ppo


class Stop(BaseCallback):
    """Raises at a timestep, or (``between``) when the next training is about to begin."""

    def __init__(self, at, error=KeyboardInterrupt, between=False):
        super().__init__()
        self.at, self.error, self.between = at, error, between

    def _on_step(self):
        if not self.between and self.num_timesteps >= self.at:
            raise self.error
        return True

    def _on_rollout_end(self):
        if self.between and self.num_timesteps >= self.at:
            raise self.error


def interrupted(name, recipe, error=KeyboardInterrupt, between=False):
    model = AGENTS[name]()
    callback = rl_crop.PruningCallback(0.5, recipe=recipe, verbose=0, **SCORING)
    with pytest.raises(error):
        model.learn(2000, callback=[callback, Stop(300, error, between)])
    return model


def is_noisy(model):
    policy, x = model.policy, th.zeros(1, 4)
    policy.set_training_mode(True)
    return not th.equal(policy.predict_values(x), policy.predict_values(x))


def weights(model):
    return [parameter.detach().clone() for parameter in model.policy.parameters()]


ERRORS = [(KeyboardInterrupt, False), (SystemExit, True), (ValueError, False), (GeneratorExit, True)]


@pytest.mark.parametrize("recipe", ["iss_p", "greg_1"])
@pytest.mark.parametrize(("error", "between"), ERRORS)
def test_nothing_shrinks_any_longer(recipe, error, between):
    model = interrupted("ppo_discrete", recipe, error, between)
    before = weights(model)
    model.policy.optimizer.zero_grad()  # by hand, at once
    model.policy.optimizer.step()
    assert all(map(th.equal, before, weights(model)))
    model.lr_schedule = lambda _: 0.0
    model.learn(64, reset_num_timesteps=False)
    assert all(map(th.equal, before, weights(model)))


@pytest.mark.parametrize(("error", "between"), ERRORS)
def test_there_is_no_noise_any_longer(error, between):
    model = interrupted("ppo_discrete", "bridgeout", error, between)
    assert not is_noisy(model)
    model.learn(
        128, reset_num_timesteps=False, callback=rl_crop.PruningCallback(0.5, recipe="bridgeout", verbose=0, **SCORING)
    )
    assert len(model.pruning_history) == 1 and not is_noisy(model)
    assert not [hooks for layer in model.policy.modules() for hooks in layer._forward_pre_hooks.values()]


def test_no_hook_is_left_when_a_dead_run_is_collected():
    model = interrupted("ppo_discrete", "bridgeout")
    gc.collect()
    assert not [hooks for layer in model.policy.modules() for hooks in layer._forward_pre_hooks.values()]


def test_a_new_callback_takes_over():
    model = interrupted("sac", "iss_p")
    old = set(map(id, _ATTACHED))
    model.learn(64, reset_num_timesteps=False, callback=rl_crop.PruningCallback(0.5, recipe="rigl", verbose=0, **SCORING))
    assert not old & set(map(id, [hooks for hooks in _ATTACHED if set(hooks.optimizers) & {model.actor.optimizer}]))


def test_an_agent_without_buffers_is_not_cut_by_what_was_interrupted():
    model = AGENTS["ars"]()
    with pytest.raises(KeyboardInterrupt):
        model.learn(4000, callback=[rl_crop.PruningCallback(0.5, "magnitude", when=3000, verbose=0), Stop(1000)])
    model.learn(4000)
    assert not model.pruning_history and "_update_current_progress_remaining" not in vars(model)


@pytest.mark.parametrize("recipe", ["iss_p", "bridgeout"])
def test_a_task_that_is_interrupted(recipe):
    model = ppo()
    with pytest.raises(KeyboardInterrupt):
        rl_crop.run_recipe(AgentTask(model, 1000, callback=[Stop(300)]), recipe, 0.5)
    assert not [hooks for hooks in _ATTACHED if model.policy.optimizer in hooks.optimizers] and not is_noisy(model)
