"""What a pruned agent saves beside its zip (see test_matrix): policies alone, its history, the user's own arguments."""

import json

import pytest
import torch as th
from stable_baselines3.common.torch_layers import NatureCNN

import rl_crop
from tests.zoo.agents import AGENTS, SCORING, ppo, sac
from tests.zoo.snapshots import consistent, same, tensors

# RecurrentPPO's forgets lstm_hidden_size, dense or pruned: see docs/support.md.
POLICIES = (
    "ppo_discrete", "ppo_sde", "ppo_dict", "ppo_linear_actor", "a2c", "trpo", "maskable", "dqn", "qrdqn", "sac",
    "sac_sde", "sac_one_critic", "td3", "ddpg", "tqc", "crossq", "ars",
)  # fmt: skip


@pytest.mark.parametrize("name", POLICIES)
def test_policy_save_and_load(name, tmp_path):
    model = AGENTS[name]().learn(64)
    rl_crop.prune_policy(model, 0.6, criterion="span", **SCORING)
    model.policy.save(tmp_path / "policy.zip")
    loaded = type(model.policy).load(tmp_path / "policy.zip")
    assert same(loaded.state_dict(), model.policy.state_dict())


@pytest.mark.parametrize("name", ["ppo_images", "ppo_images_separate", "dqn_images", "sac_images_shared"])
def test_agents_whose_extractors_are_left_whole_need_no_package(name):
    model = AGENTS[name](net_arch=[16]).learn(64)
    extractors = [key for key, module in model.policy.named_modules() if isinstance(module, NatureCNN)]
    before = {key: value for key, value in tensors(model).items() if "features_extractor" in key}
    rl_crop.prune_policy(model, 0.6, ignore=tuple(extractors), n_batches=1, batch_size=32)
    assert {key: value.shape for key, value in tensors(model).items() if key in before} == {
        k: v.shape for k, v in before.items()
    }
    assert "features_extractor_class" not in model.policy_kwargs
    consistent(model)


def test_history_is_plain_and_json_ready(make_plain):
    model = make_plain().learn(192, callback=rl_crop.PruningCallback(0.6, when=64, verbose=0, **SCORING))
    rl_crop.prune_policy(model, 0.2, **SCORING)
    assert json.loads(json.dumps(model.pruning_history)) == model.pruning_history
    first, second = model.pruning_history
    assert (first["source"], second["source"]) == ("PruningCallback", "prune_policy")
    assert first["timesteps"] < second["timesteps"] == model.num_timesteps


@pytest.mark.parametrize("make", [ppo, sac])
def test_the_users_policy_kwargs_stay_as_they_are(make):
    mine = {"net_arch": [16, 16], "activation_fn": th.nn.ELU}
    models = [type(make())("MlpPolicy", make().get_env(), policy_kwargs=mine) for _ in range(2)]
    rl_crop.prune_policy(models[0], 0.6, **SCORING)
    assert mine["net_arch"] == [16, 16] and models[1].policy_kwargs["net_arch"] == [16, 16]
    assert models[0].policy_kwargs["activation_fn"] is th.nn.ELU
    consistent(models[0])
