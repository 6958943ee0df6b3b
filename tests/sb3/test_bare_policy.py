"""A policy without an algorithm, in a loop of one's own."""

import copy

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import ReplayBufferSamples, RolloutBufferSamples
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.sac.policies import SACPolicy

import rl_crop
from rl_crop.sb3.adapters import describe
from tests.zoo.agents import AGENTS, SCORING, ppo, sac
from tests.zoo.snapshots import same

OBSERVATIONS = spaces.Box(-1, 1, (5,))


def actor_critic(width=16):
    th.manual_seed(0)
    return ActorCriticPolicy(OBSERVATIONS, spaces.Box(-1, 1, (2,)), lambda _: 1e-2, net_arch=[16, width])


def soft_policy():
    th.manual_seed(0)
    return SACPolicy(OBSERVATIONS, spaces.Box(-1, 1, (2,)), lambda _: 1e-2, net_arch=[16, 16])


def batch(seed=0, size=64):
    """A mapping with the fields of both kinds of samples, every column flat where it can be."""
    generator = th.Generator().manual_seed(seed)
    columns = {name: th.randn(size, generator=generator) for name in ("advantages", "returns", "rewards")}
    matrices = {name: th.randn(size, 5, generator=generator) for name in ("observations", "next_observations")}
    actions = th.randn(size, 2, generator=generator).tanh()
    return columns | matrices | {"actions": actions, "dones": th.rand(size, generator=generator) < 0.2}


POLICIES = {"ppo": actor_critic, "sac": soft_policy}


@pytest.mark.parametrize("name", POLICIES)
def test_every_form_of_batch_scores_alike(name):
    policy = POLICIES[name]()
    mapping = batch()
    arrays = {key: value.numpy() for key, value in mapping.items()}
    columns = {key: value.reshape(len(value), -1).float() for key, value in mapping.items()}
    if name == "ppo":
        samples = RolloutBufferSamples(*(mapping.get(key, th.zeros(64)) for key in RolloutBufferSamples._fields))
    else:
        samples = ReplayBufferSamples(*(columns.get(key) for key in ReplayBufferSamples._fields))
    plans = [rl_crop.plan_policy_pruning(policy, 0.5, batches=[form]) for form in (mapping, arrays, columns, samples)]
    for plan in plans[1:]:
        assert same(plan.scores, plans[0].scores)


def test_a_loss_of_ones_own_reads_a_mapping_by_item_or_by_attribute():
    policy = actor_critic()

    def by_item(policy, batch):
        return F.mse_loss(policy.predict_values(batch["observations"]).flatten(), batch["returns"])

    def by_attribute(policy, batch):
        return F.mse_loss(policy.predict_values(batch.observations).flatten(), batch.returns)

    plans = [
        rl_crop.plan_policy_pruning(policy, {"critic": 0.5}, batches=[batch()], loss=loss) for loss in (by_item, by_attribute)
    ]
    assert same(plans[0].scores, plans[1].scores)


@pytest.mark.parametrize("make", [ppo, sac])
def test_a_bare_policy_is_scored_as_its_algorithm_scores_it(make):
    model = make().learn(64)
    plan = rl_crop.plan_policy_pruning(model, 0.5, **SCORING)
    batches = plan.subject.networks[0].batches
    coefficients = {"gamma": model.gamma, "ent_coef": model.log_ent_coef.exp().item() if make is sac else model.ent_coef}
    assert same(plan.scores, rl_crop.plan_policy_pruning(model.policy, 0.5, batches=batches, **coefficients).scores)
    other = rl_crop.plan_policy_pruning(model.policy, 0.5, batches=batches, gamma=0.5, ent_coef=1.0)
    assert not same(plan.scores, other.scores)


@pytest.mark.parametrize("criterion", ["magnitude", "random", "span", "synflow"])
@pytest.mark.parametrize("name", POLICIES)
def test_observations_alone(name, criterion):
    for observations in (th.randn(64, 5), np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)):
        report = rl_crop.prune_policy(POLICIES[name](), 0.6, batches=[observations], criterion=criterion)
        assert min(report.sparsity.values()) >= 0.6


@pytest.mark.parametrize("name", POLICIES)
def test_observations_alone_have_no_gradient_flow(name):
    with pytest.raises(rl_crop.PruningError, match="hold no .*(advantages|rewards).*observations alone"):
        rl_crop.prune_policy(POLICIES[name](), {"critic" if name == "sac" else "actor": 0.6}, batches=[th.randn(64, 5)])


def test_no_batches():
    rl_crop.prune_policy(actor_critic(), 0.6, criterion="synflow", compensation="none")
    with pytest.raises(rl_crop.PruningError, match="give batches"):
        rl_crop.prune_policy(actor_critic(), 0.6)
    with pytest.raises(rl_crop.PruningError, match="A batch must be"):
        rl_crop.prune_policy(actor_critic(), 0.6, batches=["what"])


def test_batches_may_be_a_generator_also_in_steps():
    report = rl_crop.prune_policy(actor_critic(), 0.6, batches=(batch(seed) for seed in range(2)), schedule="iterative")
    assert 0.6 <= report.sparsity["total"] < 0.68


def test_a_loss_of_ones_own():
    def loss(policy, given):
        return policy.predict_values(given["observations"]).pow(2).mean()

    def value_loss(policy, given):
        return loss(policy, vars(given))

    policy, data = actor_critic(), [batch()]
    whole = rl_crop.plan_policy_pruning(policy, {"critic": 0.5}, batches=data, loss=value_loss)
    named = rl_crop.plan_policy_pruning(policy, 0.5, batches=data, loss={"critic": value_loss})
    usual = rl_crop.plan_policy_pruning(policy, 0.5, batches=data)
    for layer, scores in whole.scores.items():
        assert same(scores, named.scores[layer]) and not same(scores, usual.scores[layer])
    for layer in usual.scores.keys() - whole.scores.keys():
        assert same(usual.scores[layer], named.scores[layer])
    with pytest.raises(rl_crop.PruningError, match="'actr'.*actor"):
        rl_crop.plan_policy_pruning(policy, 0.5, batches=data, loss={"actr": value_loss})
    with pytest.raises(rl_crop.PruningError, match="depend"):  # a loss that the actor has no part in
        rl_crop.plan_policy_pruning(policy, 0.5, batches=data, loss=value_loss)


@pytest.mark.parametrize("name", ["recurrent", "recurrent_shared", "recurrent_without_critic"])
def test_padded_sequences_are_taken_apart(name):
    """Values and log-probabilities of every real step are those that the policy finds by running whole sequences."""
    model = AGENTS[name]().learn(64)
    policy, parts, rows = model.policy, describe(model.policy), []
    assert model.rollout_buffer.episode_starts.sum() > 0 or name == "recurrent_without_critic"
    for given in model.rollout_buffer.get(40):
        real = given.mask > 0
        actions = given.actions if policy.use_sde else given.actions.long().flatten()
        states = RNNStates(*given.lstm_states)
        with th.no_grad():
            expected = policy.evaluate_actions(given.observations, actions, states, given.episode_starts)[0].flatten()[real]
            head, values = parts.forwards[0](parts.prepare(given).observations, None)
            assert len(head) == int(real.sum()) and th.allclose(values.flatten(), expected, atol=1e-5)
            latent = policy.get_distribution(given.observations, states.pi, given.episode_starts)[0].distribution
            wanted = latent.mean if policy.use_sde else latent.logits
            found = head if policy.use_sde else head.log_softmax(dim=1)
            assert th.allclose(found, wanted[real], atol=1e-5)
        rows.append(len(head))
    assert sum(rows) == model.n_steps * model.n_envs
    batches = list(model.rollout_buffer.get(40))
    rl_crop.prune_policy(policy, 0.6, batches=batches, ent_coef=0.01)
    model.learn(64, reset_num_timesteps=False)


def actor_critic_loss(policy, data):
    values, log_prob, entropy = policy.evaluate_actions(data["observations"], data["actions"])
    return F.mse_loss(values.flatten(), data["returns"]) - (data["advantages"] * log_prob).mean() - 0.01 * entropy.mean()


@pytest.mark.parametrize("optimizer_class", [th.optim.Adam, th.optim.SGD, th.optim.RMSprop, th.optim.AdamW])
def test_a_loop_with_an_optimizer_of_its_own_and_a_live_graph(optimizer_class):
    policy, average = actor_critic(), actor_critic()
    keywords = {"momentum": 0.9} if optimizer_class is th.optim.SGD else {}
    optimizer = optimizer_class(policy.parameters(), lr=1e-2, **keywords)
    graphs = []

    def update(step):
        loss = actor_critic_loss(policy, batch(step))
        graphs.append(loss)  # as a log of losses would keep them
        optimizer.zero_grad()
        loss.backward(retain_graph=True)
        optimizer.step()
        with th.no_grad():
            polyak_update(policy.parameters(), average.parameters(), 0.1)

    for step in range(3):
        update(step)
    actor_critic_loss(policy, batch(3)).backward()  # a gradient that is not used yet
    report = rl_crop.prune_policy(policy, 0.6, batches=[batch(9)], ent_coef=0.01, optimizers=[optimizer], mirrors=[average])
    assert report.n_params_after == sum(p.numel() for p in policy.parameters())
    before = copy.deepcopy(list(policy.parameters()))
    for step in range(3, 6):
        update(step)
    assert all(not th.equal(p, old) for p, old in zip(policy.parameters(), before, strict=True))
    assert [p.shape for p in average.parameters()] == [p.shape for p in policy.parameters()]
    assert policy.net_arch == average.net_arch
    for parameter, slot in optimizer.state.items():
        assert all(value.shape == parameter.shape for value in slot.values() if isinstance(value, th.Tensor) and value.dim())


def test_mirrors_of_a_soft_policy_take_their_targets_along():
    policy, mirror = soft_policy(), soft_policy()
    rl_crop.prune_policy(policy, 0.6, batches=[batch()], mirrors=[mirror], compensation="none")
    assert same(policy.state_dict(), mirror.state_dict())  # they were equal before, targets included
    assert mirror.net_arch == policy.net_arch and mirror.critic_kwargs["net_arch"] == policy.net_arch["qf"]


@pytest.mark.parametrize("other", [soft_policy, lambda: actor_critic(width=8), lambda: th.nn.Linear(2, 2)])
def test_a_mirror_of_another_kind_is_refused(other):
    policy = actor_critic()
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(rl_crop.PruningError, match="mirror"):
        rl_crop.prune_policy(policy, 0.6, batches=[batch()], mirrors=[other()])
    assert same(before, policy.state_dict())


@pytest.mark.parametrize("name", POLICIES)
def test_the_policys_own_optimizers_are_cut_along_without_being_named(name):
    policy = POLICIES[name]()
    for _ in range(2):
        for owner in (policy,) if name == "ppo" else (policy.actor, policy.critic):
            owner.optimizer.zero_grad()
            sum(p.pow(2).sum() for p in owner.parameters()).backward()
            owner.optimizer.step()
        if policy.net_arch == [16, 16]:
            rl_crop.prune_policy(policy, 0.6, batches=[batch()])
