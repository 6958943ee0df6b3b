"""What users do: unusual policies, spaces, buffers and optimizers, and loops that stop and go."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, IdentityEnv, IdentityEnvMultiBinary, IdentityEnvMultiDiscrete
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

import rl_crop
from tests.sb3.agents import SCORING, SEPARATE, SHARED, consistent, equal, make_env, ppo, sac, tensors


class Dense(BaseFeaturesExtractor):
    """A features extractor with a layer of its own."""

    def __init__(self, observation_space, features_dim=12):
        super().__init__(observation_space, features_dim)
        self.net = th.nn.Sequential(th.nn.Linear(observation_space.shape[0], features_dim), th.nn.ReLU())

    def forward(self, observations):
        return self.net(observations)


class Double(gym.ObservationWrapper):
    """Observations in double precision, as MuJoCo's are."""

    def __init__(self, env):
        super().__init__(env)
        low, high = (bound.astype(np.float64) for bound in (env.observation_space.low, env.observation_space.high))
        self.observation_space = spaces.Box(low, high, dtype=np.float64)

    def observation(self, observation):
        return observation.astype(np.float64)


OWN = {"features_extractor_class": Dense}
AGENTS = {
    "a2c": lambda: A2C("MlpPolicy", "CartPole-v1", n_steps=32, policy_kwargs={"net_arch": [16, 16]}, learning_rate=1e-2),
    "multi_discrete": lambda: ppo(env=make_vec_env(IdentityEnvMultiDiscrete, env_kwargs={"dim": 3})),
    "multi_binary": lambda: ppo(env=make_vec_env(IdentityEnvMultiBinary, env_kwargs={"dim": 3})),
    "discrete_observations": lambda: ppo(env=make_vec_env(IdentityEnv, env_kwargs={"dim": 4})),
    "sde_of_another_kind": lambda: ppo(
        "Pendulum-v1", use_sde=True, policy_kwargs={"full_std": False, "use_expln": True, "squash_output": True}
    ),
    "sac_sde_without_clipping": lambda: sac(use_sde=True, policy_kwargs={"use_expln": True, "clip_mean": 0.0}),
    "amsgrad": lambda: ppo(policy_kwargs={"optimizer_kwargs": {"amsgrad": True}}),
    "momentum": lambda: sac(
        policy_kwargs={"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}}, learning_rate=1e-4
    ),
    "clipped_values": lambda: ppo(clip_range_vf=0.2, target_kl=0.5, normalize_advantage=False),
    "own_extractor": lambda: ppo(policy_kwargs=OWN),
    "own_extractors": lambda: ppo(policy_kwargs=OWN | SEPARATE),
    "sac_own_extractors": lambda: sac(policy_kwargs=OWN),
    "sac_own_extractor": lambda: sac(policy_kwargs=OWN | SHARED),
    "double_precision": lambda: sac(env=make_vec_env("Pendulum-v1", wrapper_class=Double)),
    "frames": lambda: ppo(env=VecFrameStack(make_env("CartPole-v1", 2), 3)),
    "rewards_normalized": lambda: sac(env=VecNormalize(make_env("Pendulum-v1", 2), norm_obs=False)),
    "dict_normalized": lambda: ppo(env={"n_envs": 2, "normalize": True, "dict_obs": True}),
    "deep_relu": lambda: ppo(net_arch=[16] * 4, policy_kwargs={"activation_fn": th.nn.ReLU}),
    "hindsight": lambda: sac(
        env=make_vec_env(BitFlippingEnv, env_kwargs={"n_bits": 4, "continuous": True}), replay_buffer_class=HerReplayBuffer
    ).learn(80),
}


@pytest.mark.parametrize("name", AGENTS)
def test_prune_train_on_save_load_resume(name, tmp_path):
    model = AGENTS[name]()
    rl_crop.prune_policy(model, 0.5, **SCORING)
    model.learn(128, callback=rl_crop.PruningCallback(0.4, when=0.4, verbose=0, **SCORING))
    assert len(model.pruning_history) == 2
    consistent(model)
    before = tensors(model)
    model.learn(128, reset_num_timesteps=False)
    assert [key for key, tensor in tensors(model).items() if tensor.numel() and th.equal(tensor, before[key])] == []
    model.save(tmp_path / "agent")
    loaded = type(model).load(tmp_path / "agent", env=model.get_env())
    assert equal(tensors(loaded), tensors(model))
    loaded.learn(64, reset_num_timesteps=False)


def test_extractors_are_left_whole_for_every_network_that_reads_them():
    for name in ("own_extractor", "own_extractors", "sac_own_extractors", "sac_own_extractor"):
        model = AGENTS[name]()
        report = rl_crop.prune_policy(model, 0.5, **SCORING)
        whole = [layer for layer, reason in report.untouched.items() if "features extractor" in reason]
        assert len(whole) == (1 if name in ("own_extractor", "sac_own_extractor") else 2), report.untouched


def wrapped(model):
    model.policy = th.compile(model.policy, backend="eager")
    return model


def in_place(model):
    for part in (model.actor, model.critic) if isinstance(model, SAC) else (model.policy, model.policy.mlp_extractor):
        part.compile(backend="eager")
    return model


@pytest.mark.parametrize("compiled", [wrapped, in_place])
def test_compiled_policies(make_plain, compiled):
    model, plain = compiled(make_plain()), make_plain()
    rl_crop.prune_policy(plain, 0.5, **SCORING)
    rl_crop.prune_policy(model, 0.5, **SCORING)
    assert model.policy.net_arch == plain.policy.net_arch
    model.learn(64)


def test_a_compiled_part_is_refused():
    model = ppo()
    model.policy.mlp_extractor = th.compile(model.policy.mlp_extractor, backend="eager")
    with pytest.raises(rl_crop.PruningError, match="torch.compile.*mlp_extractor|mlp_extractor.*torch.compile"):
        rl_crop.prune_policy(model, 0.5, **SCORING)


class StopAt(BaseCallback):
    def __init__(self, at):
        super().__init__()
        self.at = at

    def _on_step(self):
        return self.num_timesteps < self.at


def test_training_that_stops_in_the_middle_of_a_rollout(make_plain):
    model = make_plain()
    model.learn(256, callback=[StopAt(100), rl_crop.PruningCallback(0.4, when=0.8, verbose=0, **SCORING)])
    assert [(event["timesteps"], event["decided_by"]) for event in model.pruning_history] == [(100, "end")]
    rl_crop.prune_policy(model, 0.4, **SCORING)
    consistent(model.learn(128, reset_num_timesteps=False))


@pytest.mark.parametrize("at", [10, 100])
def test_training_that_stops_before_there_is_new_data(at):
    callback = rl_crop.PruningCallback(0.4, schedule="gradual", when=64, until=128, n_events=2, verbose=0, **SCORING)
    model = ppo().learn(256, callback=[StopAt(at), callback])  # a rollout is collected for what is left
    assert [event["timesteps"] for event in model.pruning_history] == ([10] if at == 10 else [64, 100])
    assert model.num_timesteps == at
    consistent(model.learn(64))


class PruneByHand(BaseCallback):
    """A schedule of one's own."""

    def _on_rollout_end(self):
        if self.num_timesteps in (64, 192):
            rl_crop.prune_policy(self.model, 0.4, **SCORING)

    def _on_step(self):
        return True


def test_prune_policy_in_a_callback_of_ones_own(make_plain):
    model = make_plain().learn(256, callback=PruneByHand())
    assert [event["timesteps"] for event in model.pruning_history] == [64, 192]
    consistent(model)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_default_architectures(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", seed=0)
    rl_crop.prune_policy(model, 0.95, **SCORING)
    consistent(model)


def test_another_environment(make_plain):
    model = make_plain().learn(64, callback=rl_crop.PruningCallback(0.4, when=0.5, verbose=0, **SCORING))
    model.set_env(make_plain().get_env())
    rl_crop.prune_policy(model, 0.4, **SCORING)
    consistent(model.learn(128, callback=rl_crop.PruningCallback(0.4, when=0.5, verbose=0, **SCORING)))
    assert [event["source"] for event in model.pruning_history] == ["PruningCallback", "prune_policy"]
