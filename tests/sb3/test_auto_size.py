"""Sizes found by themselves, of agents: without a number, early in training and at its end."""

import pytest
from stable_baselines3.common.callbacks import BaseCallback

import rl_crop
from tests.zoo.agents import AGENTS, SCORING, ppo, sac
from tests.zoo.snapshots import consistent, tensors


def wide(make):
    return make(net_arch=[64, 64])


@pytest.mark.parametrize(
    "name", ["ppo_discrete", "ppo_normalized", "sac", "sac_sde", "td3", "dqn", "qrdqn", "tqc", "crossq", "a2c"]
)
def test_a_trained_agent_is_made_small_and_stays_whole_in_itself(name):
    if name not in AGENTS:
        pytest.skip("no such agent in the zoo")
    model = AGENTS[name]().learn(128)
    before = tensors(model)
    plan = rl_crop.plan_policy_pruning(model, tolerance=0.02, **SCORING)
    assert all((tensor == before[key]).all() for key, tensor in tensors(model).items())
    assert plan.curve and "size of" in str(plan)
    report = plan.apply()
    assert report.n_params_after == plan.n_params_after
    consistent(model)
    model.learn(64, reset_num_timesteps=False)


def test_prune_policy_takes_no_number():
    model = wide(ppo).learn(64)
    report = rl_crop.prune_policy(model, **SCORING)
    assert report.n_params_after < report.n_params_before and report.criterion == "obs_crop"
    assert model.pruning_history[-1]["source"] == "prune_policy"
    consistent(model)


@pytest.mark.parametrize("make", [ppo, sac])
def test_a_callback_takes_no_number(make):
    model = wide(make)
    callback = rl_crop.PruningCallback(verbose=0, n_batches=2, batch_size=32, when=64)
    model.learn(256, callback=callback)
    [event] = model.pruning_history
    assert event["criterion"] == "obs_crop" and event["n_params_after"] < event["n_params_before"]
    assert event["finished"] and not hasattr(model, "pruning_state")
    consistent(model)


def test_a_size_that_is_found_is_cut_to_in_several_events():
    model = wide(ppo)
    callback = rl_crop.PruningCallback(schedule="gradual", n_events=3, when=64, until=256, verbose=0, **SCORING)
    model.learn(384, callback=callback)
    sizes = [event["n_params_after"] for event in model.pruning_history]
    assert len(sizes) == 3 and sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    consistent(model)


class SaveAt(BaseCallback):
    def __init__(self, at, path):
        super().__init__()
        self.at, self.path = at, path

    def _on_step(self):
        if self.num_timesteps == self.at:
            self.model.save(self.path)
        return True


def test_a_resumed_run_goes_on_to_the_size_that_was_found(tmp_path):
    def callback():
        return rl_crop.PruningCallback(schedule="gradual", n_events=3, when=64, until=256, verbose=0, **SCORING)

    model = wide(ppo)
    model.learn(384, callback=[callback(), SaveAt(100, tmp_path / "agent.zip")])
    loaded = type(model).load(tmp_path / "agent.zip", env=model.get_env())
    assert len(loaded.pruning_history) == 1
    loaded.learn(284, reset_num_timesteps=False, callback=callback())
    assert len(loaded.pruning_history) == 3
    first, second = model.pruning_history[-1], loaded.pruning_history[-1]
    assert first["reached"] == pytest.approx(second["reached"], abs=0.05)


@pytest.mark.parametrize(
    "keywords", [{"max_params": 3000}, {"max_params": {"actor": 900, "critic": 2000}}, {"max_flops": 5000}]
)
def test_budgets_of_an_agent(keywords):
    model = wide(ppo).learn(64)
    report = rl_crop.prune_policy(model, **keywords, **SCORING)
    actor = [p.numel() for name, p in model.policy.named_parameters() if "policy_net" in name or "action_net" in name]
    if keywords == {"max_params": 3000}:
        assert sum(p.numel() for p in model.policy.parameters()) == report.n_params_after <= 3000
    elif "max_params" in keywords:
        assert sum(actor) <= 900
    else:
        assert report.flops_after <= 5000
    other = wide(ppo)
    other.learn(128, callback=rl_crop.PruningCallback(**keywords, when=64, verbose=0, **SCORING))
    assert other.pruning_history[-1]["n_params_after"] <= 3000 or "max_flops" in keywords
    consistent(other)


def test_widths_that_are_multiples():
    model = wide(sac).learn(64)
    rl_crop.prune_policy(model, 0.7, round_to=8, **SCORING)
    widths = [*model.policy.net_arch["pi"], *model.policy.net_arch["qf"]]
    assert all(width % 8 == 0 for width in widths) and max(widths) < 64


@pytest.mark.parametrize("keywords", [{"structured": False}, {"recipe": "rigl"}, {"when": "distance"}, {"tolerance": 2}])
def test_what_needs_a_number_says_so_before_the_first_step(keywords):
    model = ppo()
    with pytest.raises(rl_crop.PruningError, match="sparsity|tolerance"):
        model.learn(64, callback=rl_crop.PruningCallback(**keywords))
    assert model.num_timesteps == 0
