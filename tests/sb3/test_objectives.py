"""
The scoring objectives have the gradients with which Stable-Baselines3 trains.

CrossQ's are approximate and so are not compared: it trains with the statistics of the batch, of observations and next
observations together, where scoring uses the running statistics, so that a score does not depend on the other rows. Of
RecurrentPPO, what comes after the LSTM is compared: what comes before it is scored without the path through earlier steps.
"""

import copy

import pytest
import torch as th
from sb3_contrib import TRPO

from rl_crop.core.rng import eval_mode
from rl_crop.sb3.adapters import describe
from rl_crop.sb3.data import rollout_samples
from rl_crop.sb3.networks import Hyperparameters, entropy_coefficient
from tests.zoo.agents import AGENTS
from tests.zoo.snapshots import targets

TOLERANCE = 2e-5


@pytest.fixture
def fixed_noise(monkeypatch):
    """Every sample of a normal distribution is the same number of standard deviations from its mean."""

    def rsample(self, shape=()):
        extended = th.Size(shape) + self.batch_shape
        return self.loc + self.scale * th.linspace(-1, 1, extended.numel()).reshape(extended)

    monkeypatch.setattr(th.distributions.Normal, "rsample", rsample)


def assert_close(found, expected):
    assert float(expected.abs().max()) > 0
    assert float((found - expected).abs().max() / expected.abs().max()) < TOLERANCE


def gradient(loss, parameters):
    grads = th.autograd.grad(loss, parameters, allow_unused=True)
    return flattened(grads, parameters)


def flattened(grads, parameters):
    return th.cat([(th.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, grads, strict=True)])


def own_parameters(parts, network):
    modules = parts.modules[network]
    return [p for part in modules for p in (part.parameters() if isinstance(part, th.nn.Module) else [part])]


ON_POLICY = {
    "ppo_discrete": {}, "ppo_box": {}, "ppo_sde": {}, "ppo_uneven": {}, "ppo_linear_actor": {}, "ppo_linear_critic": {},
    "ppo_normalized": {}, "ppo_dict": {}, "ppo_multi_discrete": {}, "ppo_multi_binary": {}, "ppo_clipped_values": {},
    "ppo_images": {}, "ppo_images_separate": {}, "ppo_images_sde": {}, "ppo_mixed": {}, "ppo_normed": {}, "a2c": {},
    "a2c_sde": {"normalize_advantage": True}, "a2c_images": {"ent_coef": 0.1}, "maskable": {}, "maskable_multi_discrete": {},
    "maskable_images": {}, "maskable_mixed": {}, "recurrent": {}, "recurrent_shared": {}, "recurrent_without_critic": {},
    "recurrent_images": {}, "recurrent_mixed": {},
}  # fmt: skip


@pytest.mark.parametrize("name", ON_POLICY)
def test_gradients_on_rollouts(name):
    keywords = ON_POLICY[name] | {"learning_rate": 0.0, "max_grad_norm": 1e9}
    model = AGENTS[name](**keywords)
    size = model.n_steps * model.n_envs
    if not name.startswith("a2c"):
        model.batch_size, model.n_epochs = size, 1
    model.learn(size)  # trains once on the whole buffer, at ratio 1, and stays where it is
    batch = rollout_samples(model.rollout_buffer, 10**6, seed=0)
    parts = describe(model.policy, Hyperparameters.of(model))
    batch = parts.prepare(batch)
    before_lstm = [p for key, p in model.policy.named_parameters() if "lstm" in key or "features_extractor" in key]
    for network in parts.modules:
        factor = model.vf_coef if network == "critic" else 1.0
        own = own_parameters(parts, network)
        if name.startswith("recurrent"):
            own = [p for p in own if not any(p is other for other in before_lstm)]
        if not own:
            continue
        assert_close(gradient(parts.losses[network](batch), own) * factor, flattened([p.grad for p in own], own))


@pytest.mark.parametrize("name", ["trpo", "trpo_sde", "trpo_images", "trpo_mixed"])
def test_trust_region_gradients(name, monkeypatch):
    """The policy gradient from which the natural one is computed, and the gradient of the value loss."""
    found = {}
    original = TRPO._compute_actor_grad

    def keep(self, kl_div, objective):
        parameters, grads, *rest = original(self, kl_div, objective)
        found["actor"] = {id(p): g.reshape(p.shape) for p, g in zip(parameters, _split(grads, parameters), strict=True)}
        return parameters, grads, *rest

    monkeypatch.setattr(TRPO, "_compute_actor_grad", keep)
    model = AGENTS[name](learning_rate=0.0, n_critic_updates=1)
    size = model.n_steps * model.n_envs
    model.batch_size = size
    monkeypatch.setattr(model, "line_search_max_iter", 0)  # the policy stays where it is
    model.learn(size)
    batch = rollout_samples(model.rollout_buffer, 10**6, seed=0)
    parts = describe(model.policy, Hyperparameters.of(model))
    for network in parts.modules:
        own = own_parameters(parts, network)
        computed = gradient(parts.losses[network](batch), own)
        if network == "critic":
            assert_close(computed, flattened([p.grad for p in own], own))
        else:  # TRPO maximises its objective
            assert_close(computed, -flattened([found["actor"].get(id(p)) for p in own], own))


def _split(flat, parameters):
    return flat.split([p.numel() for p in parameters]) if isinstance(flat, th.Tensor) else flat


OFF_POLICY = [
    ("sac", {}), ("sac", {"ent_coef": 0.1}), ("sac_n_steps", {}), ("sac_sde", {}), ("sac_one_critic", {}),
    ("sac_three_critics", {}), ("sac_linear_actor", {}), ("sac_normalized", {"n_steps": 3}), ("sac_dict", {}),
    ("sac_images", {}), ("sac_images_shared", {"ent_coef": 0.1}), ("sac_normed_shared", {}), ("tqc", {}), ("tqc_sde", {}),
    ("tqc", {"n_steps": 3, "top_quantiles_to_drop_per_net": 1}), ("tqc_images", {}), ("tqc_mixed", {}),
    ("td3", {"target_policy_noise": 0.0}), ("td3_four_critics", {"target_policy_noise": 0.0}),
    ("td3_images", {"target_policy_noise": 0.0}), ("td3_mixed", {"target_policy_noise": 0.0}), ("ddpg", {}),
    ("ddpg_images", {"learning_rate": 1e-4}), ("dqn", {}), ("dqn_uneven", {}), ("dqn_images", {}), ("qrdqn", {}),
    ("qrdqn", {"n_steps": 3}), ("qrdqn_images", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "keywords"), OFF_POLICY, ids=str)
def test_gradients_on_replay(name, keywords, fixed_noise, monkeypatch):
    model = AGENTS[name](**{"policy_delay": 1} | keywords if name.startswith("td3") else keywords).learn(64)
    with th.no_grad():  # targets of their own
        for _, target in targets(model.policy):
            for parameter in target.parameters():
                parameter.mul_(0.9)
    model.tau, model.max_grad_norm = 0.0, 1e9  # they stay where they are
    batch = model.replay_buffer.sample(32, env=model.get_vec_normalize_env())
    assert (batch.discounts is not None) == (model.n_steps > 1)
    owners = {"actor": model.actor, "critic": model.critic} if hasattr(model, "actor") else {"critic": model.policy}
    expected = {}

    def keep_gradient(network, optimizer):
        def step(*args):
            expected[network] = {id(p): copy.deepcopy(p.grad) for group in optimizer.param_groups for p in group["params"]}

        monkeypatch.setattr(optimizer, "step", step)

    for network, owner in owners.items():
        keep_gradient(network, owner.optimizer)
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *args, **kwargs: batch)
    parts = describe(model.policy, Hyperparameters.of(model))
    model.train(gradient_steps=1, batch_size=32)
    with eval_mode(model.policy):
        for network in parts.modules:  # a shared extractor is the actor's
            own = own_parameters(parts, network)
            grads = [expected["actor" if network == "features" else network].get(id(p)) for p in own]
            assert_close(gradient(parts.losses[network](batch), own), flattened(grads, own))


def test_entropy_coefficient():
    assert entropy_coefficient(AGENTS["sac"](ent_coef=0.3)) == pytest.approx(0.3)
    assert entropy_coefficient(AGENTS["sac"](ent_coef="auto_0.2")) == pytest.approx(0.2)
    assert entropy_coefficient(AGENTS["ppo_discrete"](ent_coef=0.07)) == pytest.approx(0.07)
    assert entropy_coefficient(AGENTS["dqn"]()) == entropy_coefficient(AGENTS["trpo"]()) == 0.0
