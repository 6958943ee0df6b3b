"""The scoring objectives have the gradients with which Stable-Baselines3 trains."""

import pytest
import torch as th

from rl_crop.core.rng import eval_mode
from rl_crop.sb3.adapters import describe
from rl_crop.sb3.data import rollout_samples
from rl_crop.sb3.networks import Hyperparameters, entropy_coefficient
from tests.sb3.agents import AGENTS


@pytest.fixture
def fixed_noise(monkeypatch):
    """Every sample of a normal distribution is the same number of standard deviations from its mean."""

    def rsample(self, shape=()):
        extended = self._extended_shape(th.Size(shape))
        return self.loc + self.scale * th.linspace(-1, 1, extended.numel()).reshape(extended)

    monkeypatch.setattr(th.distributions.Normal, "rsample", rsample)


def relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def gradient(loss, parameters):
    grads = th.autograd.grad(loss, parameters, allow_unused=True)
    return th.cat([(th.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, grads, strict=True)])


@pytest.mark.parametrize("name", [name for name in AGENTS if name.startswith("ppo")])
def test_ppo_gradients(name):
    n_envs = AGENTS[name]().n_envs
    model = AGENTS[name](batch_size=64 * n_envs, n_epochs=1, learning_rate=0.0, max_grad_norm=1e9)
    model.learn(64 * n_envs)  # trains once on the whole buffer, at ratio 1, and stays where it is
    expected = {n: p.grad.clone() for n, p in model.policy.named_parameters() if p.grad is not None}
    batch = rollout_samples(model.rollout_buffer, 10**6, seed=0)
    parts = describe(model.policy, Hyperparameters.of(model))
    for network, factor in (("actor", 1.0), ("critic", model.vf_coef)):
        own = [p for part in parts.modules[network] for p in (part.parameters() if hasattr(part, "parameters") else [part])]
        names = [n for n, p in model.policy.named_parameters() if any(p is other for other in own)]
        found = gradient(parts.losses[network](batch), own) * factor
        by_name = {id(p): n for n, p in model.policy.named_parameters()}
        assert len(names) == len(own)
        assert relative_error(found, th.cat([expected[by_name[id(p)]].flatten() for p in own])) < 2e-5


SAC_CASES = [
    ("sac", {}),
    ("sac", {"ent_coef": 0.1}),
    ("sac", {"n_steps": 3}),
    ("sac_sde", {}),
    ("sac_one_critic", {}),
    ("sac_three_critics", {}),
    ("sac_linear_actor", {}),
    ("sac_normalized", {"n_steps": 3}),
    ("sac_dict", {}),
]


@pytest.mark.parametrize(("name", "keywords"), SAC_CASES, ids=str)
def test_sac_gradients(name, keywords, fixed_noise, monkeypatch):
    model = AGENTS[name](**keywords).learn(64)
    model.tau = 0.0  # the target stays where it is
    with th.no_grad():  # a target of its own
        for parameter in model.critic_target.parameters():
            parameter.mul_(0.9)
    batch = model.replay_buffer.sample(64, env=model.get_vec_normalize_env())
    assert (batch.discounts is not None) == ("n_steps" in keywords)
    expected = {}

    def keep_gradient(kind, network):
        optimizer = network.optimizer

        def step():
            expected[kind] = th.cat([p.grad.flatten() for group in optimizer.param_groups for p in group["params"]])

        monkeypatch.setattr(optimizer, "step", step)

    keep_gradient("actor", model.actor)
    keep_gradient("critic", model.critic)
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *args, **kwargs: batch)
    parts = describe(model.policy, Hyperparameters.of(model))
    model.train(gradient_steps=1, batch_size=64)
    with eval_mode(model.policy):
        for network, owner in (("actor", model.actor), ("critic", model.critic)):
            own = [p for group in owner.optimizer.param_groups for p in group["params"]]
            assert relative_error(gradient(parts.losses[network](batch), own), expected[network]) < 2e-5


def test_entropy_coefficient():
    assert entropy_coefficient(AGENTS["sac"](ent_coef=0.3)) == pytest.approx(0.3)
    assert entropy_coefficient(AGENTS["sac"](ent_coef="auto_0.2")) == pytest.approx(0.2)
    assert entropy_coefficient(AGENTS["ppo_discrete"](ent_coef=0.07)) == pytest.approx(0.07)
