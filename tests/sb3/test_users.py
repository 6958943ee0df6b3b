"""What users do: compiled policies, and loops that stop and go; see test_matrix for policies, spaces and buffers."""

import pytest
import torch as th
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

import rl_crop
from tests.zoo.agents import AGENTS, SCORING, ppo
from tests.zoo.callbacks import Watch
from tests.zoo.snapshots import consistent

COMPILED = ("ppo_discrete", "sac", "dqn", "td3", "recurrent", "ppo_images")


@pytest.mark.parametrize("name", COMPILED)
def test_a_wrapped_policy_is_unwrapped(name):
    model, plain = AGENTS[name](), AGENTS[name]()
    model.policy = th.compile(model.policy, backend="eager")
    rl_crop.prune_policy(plain, 0.5, **SCORING)
    rl_crop.prune_policy(model, 0.5, **SCORING)
    assert model.policy.net_arch == plain.policy.net_arch
    model.learn(64)


@pytest.mark.parametrize("name", COMPILED)
def test_parts_compiled_in_place(name):
    model, plain = AGENTS[name](), AGENTS[name]()
    parts = [module for key in ("actor", "critic", "q_net", "mlp_extractor") if (module := getattr(model.policy, key, None))]
    for part in parts:
        part.compile(backend="eager")
    rl_crop.prune_policy(plain, 0.5, **SCORING)
    rl_crop.prune_policy(model, 0.5, **SCORING)
    assert model.policy.net_arch == plain.policy.net_arch
    model.learn(64)


@pytest.mark.parametrize(("name", "part"), [("ppo_discrete", "mlp_extractor"), ("dqn", "q_net"), ("td3", "actor")])
def test_a_compiled_part_is_refused(name, part):
    model = AGENTS[name]()
    setattr(model.policy, part, th.compile(getattr(model.policy, part), backend="eager"))
    with pytest.raises(rl_crop.PruningError, match=f"torch.compile.*{part}|{part}.*torch.compile"):
        rl_crop.prune_policy(model, 0.5, **SCORING)


def test_training_that_stops_in_the_middle_of_a_rollout(make_plain):
    model = make_plain()
    model.learn(
        256,
        callback=[
            Watch(stop=lambda model: model.num_timesteps >= 100),
            rl_crop.PruningCallback(0.4, when=0.8, verbose=0, **SCORING),
        ],
    )
    assert [(event["timesteps"], event["decided_by"]) for event in model.pruning_history] == [(100, "end")]
    rl_crop.prune_policy(model, 0.4, **SCORING)
    consistent(model.learn(128, reset_num_timesteps=False))


@pytest.mark.parametrize("at", [10, 100])
def test_training_that_stops_before_there_is_new_data(at):
    callback = rl_crop.PruningCallback(0.4, schedule="gradual", when=64, until=128, n_events=2, verbose=0, **SCORING)
    model = ppo().learn(
        256, callback=[Watch(stop=lambda model: model.num_timesteps >= at), callback]
    )  # a rollout is collected for what is left
    assert [event["timesteps"] for event in model.pruning_history] == ([10] if at == 10 else [64, 100])
    assert model.num_timesteps == at
    consistent(model.learn(64))


def test_prune_policy_in_a_callback_of_ones_own(make_plain):
    def schedule(model):
        if model.num_timesteps in (64, 192):
            rl_crop.prune_policy(model, 0.4, **SCORING)

    model = make_plain().learn(256, callback=Watch(end=schedule))
    assert [event["timesteps"] for event in model.pruning_history] == [64, 192]
    consistent(model)


@pytest.mark.parametrize("algorithm", [PPO, SAC, A2C, TD3, DDPG, DQN])
def test_default_architectures(algorithm):
    model = algorithm("MlpPolicy", "CartPole-v1" if algorithm is DQN else "Pendulum-v1", seed=0)
    rl_crop.prune_policy(model, 0.95, **SCORING)
    consistent(model)


def test_another_environment(make_plain):
    model = make_plain().learn(64, callback=rl_crop.PruningCallback(0.4, when=0.5, verbose=0, **SCORING))
    model.set_env(make_plain().get_env())
    rl_crop.prune_policy(model, 0.4, **SCORING)
    consistent(model.learn(128, callback=rl_crop.PruningCallback(0.4, when=0.5, verbose=0, **SCORING)))
    assert [event["source"] for event in model.pruning_history] == ["PruningCallback", "prune_policy"]
