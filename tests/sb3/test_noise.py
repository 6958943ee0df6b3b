"""State-dependent exploration noise keeps its size through a cut, as Stable-Baselines3's own distribution computes it."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.sac.policies import SACPolicy

import rl_crop

OBSERVATIONS, ACTIONS = spaces.Box(-1, 1, (5,)), spaces.Box(-1, 1, (2,))


def noisy_policy(kind, **kwargs):
    """A policy whose noise differs from one latent feature to another, on both sides of the kink of ``use_expln``."""
    th.manual_seed(0)
    policy = kind(OBSERVATIONS, ACTIONS, lambda _: 1e-3, net_arch=[32, 32], use_sde=True, **kwargs)
    getattr(policy, "actor", policy).log_std.data.normal_(0, 0.7)
    return policy


def variance(policy, observations):
    """Of every action, shape (observations, actions), before squashing."""
    if isinstance(policy, SACPolicy):
        mean, log_std, latent = policy.actor.get_action_dist_params(observations)
        return policy.actor.action_dist.proba_distribution(mean, log_std, **latent).distribution.variance.detach()
    return policy.get_distribution(observations).distribution.variance.detach()


@pytest.fixture
def observations():
    return 2 * th.rand(200, 5, generator=th.Generator().manual_seed(1)) - 1


@pytest.mark.parametrize("schedule", ["one_shot", "iterative"])
@pytest.mark.parametrize("use_expln", [False, True])
@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        (ActorCriticPolicy, {"full_std": True}),
        (ActorCriticPolicy, {"full_std": False}),
        (SACPolicy, {}),
        (SACPolicy, {"clip_mean": 0.0}),
    ],
)
def test_the_noise_is_as_strong_as_before(kind, kwargs, use_expln, schedule, observations):
    policy = noisy_policy(kind, use_expln=use_expln, **kwargs)
    dense = variance(policy, observations)
    rl_crop.prune_policy(policy, 0.8, batches=[observations], criterion="magnitude", scope="layer", schedule=schedule)
    cut = variance(policy, observations)
    if kwargs.get("full_std", True):
        assert th.allclose(cut.mean(0), dense.mean(0), rtol=1e-3)
    assert th.allclose(cut.mean(), dense.mean(), rtol=1e-3)  # actions that share their noise keep that of all together


def test_a_mirror_keeps_its_own(observations):
    policy = noisy_policy(ActorCriticPolicy)
    mirror = noisy_policy(ActorCriticPolicy)
    mirror.log_std.data += 1
    dense = [variance(each, observations).mean(0) for each in (policy, mirror)]
    rl_crop.prune_policy(policy, 0.8, batches=[observations], criterion="magnitude", scope="layer", mirrors=[mirror])
    cut = [variance(each, observations).mean(0) for each in (policy, mirror)]
    assert dense[1].min() > 5 * dense[0].max() and all(th.allclose(*pair, rtol=1e-3) for pair in zip(cut, dense, strict=True))


def test_a_plain_cut_keeps_the_rows_as_they_are(observations):
    policy = noisy_policy(ActorCriticPolicy)
    dense = policy.log_std.detach().clone()
    plan = rl_crop.plan_policy_pruning(policy, 0.8, batches=[observations], criterion="magnitude", compensation="none")
    plan.apply()
    assert th.equal(policy.log_std, dense[plan.keep["mlp_extractor.policy_net.2"]])


def test_noise_of_what_was_not_cut_is_untouched(observations):
    policy = noisy_policy(ActorCriticPolicy)
    dense = policy.log_std.detach().clone()
    rl_crop.prune_policy(policy, {"critic": 0.8}, batches=[observations], criterion="magnitude")
    assert th.equal(policy.log_std, dense)


def test_features_that_are_hardly_active_do_not_become_wild(observations):
    policy = noisy_policy(ActorCriticPolicy)
    layer = policy.mlp_extractor.policy_net[2]
    layer.weight.data[:12] *= 1e-4
    layer.bias.data[:12] = 0
    dense = policy.log_std.detach().clone()

    def first_units(context):
        return {group.name: -np.arange(group.n_units) for group in context.groups}

    plan = rl_crop.plan_policy_pruning(policy, {"actor": 0.85}, batches=[observations], criterion=first_units, scope="layer")
    plan.apply()
    assert len(policy.log_std) < 12 and th.allclose(policy.log_std, dense[: len(policy.log_std)] + np.log(10))


def test_features_that_are_all_dead_are_scaled_by_nothing(observations):
    policy = noisy_policy(ActorCriticPolicy)
    policy.mlp_extractor.policy_net[2].weight.data.zero_()
    policy.mlp_extractor.policy_net[2].bias.data.zero_()
    dense = policy.log_std.detach().clone()
    plan = rl_crop.plan_policy_pruning(policy, 0.8, batches=[observations], criterion="magnitude")
    plan.apply()
    assert th.equal(policy.log_std, dense[plan.keep["mlp_extractor.policy_net.2"]])
