"""``crop`` scores of agents against |θ ⊙ Hg| from a dense Hessian in double precision, of losses written as in SB3."""

import numpy as np
import pytest
import stable_baselines3.common.policies
import torch as th
import torch.nn.functional as F  # noqa: N812
from sb3_contrib.common.utils import quantile_huber_loss
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import ReplayBufferSamples, RolloutBufferSamples

import rl_crop
from tests.zoo.agents import AGENTS, QUANTILES

ARCH = {"pi": [6, 5], "vf": [5, 4], "qf": [5, 4]}
GAMMA, ENT_COEF, SEED, SIZE = 0.97, 0.05, 3, 24


@pytest.fixture(autouse=True)
def double_observations(monkeypatch):
    original = stable_baselines3.common.policies.preprocess_obs
    monkeypatch.setattr(stable_baselines3.common.policies, "preprocess_obs", lambda *a, **k: original(*a, **k).double())


def normal(*shape):
    return th.randn(*shape, dtype=th.float64)


def ppo_batch(policy):
    actions = policy.action_space
    chosen = th.randint(0, 2, (SIZE, 1)).double() if actions.shape == () else normal(SIZE, *actions.shape)
    observations = normal(SIZE, *policy.observation_space.shape)
    return RolloutBufferSamples(observations, chosen, *(normal(SIZE) for _ in range(4)))


def sac_batch(policy):
    observations, following = normal(2, SIZE, 3)
    dones = (th.rand(SIZE, 1) < 0.2).double()
    return ReplayBufferSamples(observations, normal(SIZE, 1).tanh(), following, dones, normal(SIZE, 1))


def ppo_actor_loss(policy, batch, number):
    actions = batch.actions.long().flatten() if policy.action_space.shape == () else batch.actions
    _, log_prob, entropy = policy.evaluate_actions(batch.observations, actions)
    advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    ratio = th.exp(log_prob - log_prob.detach())
    policy_loss = -th.min(advantages * ratio, advantages * th.clamp(ratio, 0.8, 1.2)).mean()
    entropy_loss = -th.mean(-log_prob) if entropy is None else -th.mean(entropy)
    return policy_loss + ENT_COEF * entropy_loss


def ppo_critic_loss(policy, batch, number):
    return F.mse_loss(batch.returns, policy.predict_values(batch.observations).flatten())


def sac_actor_loss(policy, batch, number):
    th.manual_seed(SEED + number)
    if policy.actor.use_sde:
        policy.actor.reset_noise()
    actions, log_prob = policy.actor.action_log_prob(batch.observations)
    values, _ = th.min(th.cat(policy.critic(batch.observations, actions), dim=1), dim=1, keepdim=True)
    return (ENT_COEF * log_prob.reshape(-1, 1) - values).mean()


def sac_critic_loss(policy, batch, number):
    th.manual_seed(SEED + number)
    if policy.actor.use_sde:
        policy.actor.reset_noise()
    with th.no_grad():
        actions, log_prob = policy.actor.action_log_prob(batch.next_observations)
        values, _ = th.min(th.cat(policy.critic_target(batch.next_observations, actions), dim=1), dim=1, keepdim=True)
        target = batch.rewards + (1 - batch.dones) * GAMMA * (values - ENT_COEF * log_prob.reshape(-1, 1))
    return 0.5 * sum(F.mse_loss(q, target) for q in policy.critic(batch.observations, batch.actions))


def q_batch(policy):
    observations, following = normal(2, SIZE, *policy.observation_space.shape)
    actions, dones = th.randint(0, policy.action_space.n, (SIZE, 1)), (th.rand(SIZE, 1) < 0.2).double()
    return ReplayBufferSamples(observations, actions, following, dones, normal(SIZE, 1))


def q_loss(policy, batch, number):
    with th.no_grad():
        following = policy.q_net_target(batch.next_observations).max(dim=1)[0].reshape(-1, 1)
        target = batch.rewards + (1 - batch.dones) * GAMMA * following
    return F.smooth_l1_loss(th.gather(policy.q_net(batch.observations), dim=1, index=batch.actions), target)


def quantile_q_loss(policy, batch, number):
    with th.no_grad():
        following = policy.quantile_net_target(batch.next_observations)
        greedy = following.mean(dim=1, keepdim=True).argmax(dim=2, keepdim=True).expand(SIZE, policy.n_quantiles, 1)
        target = batch.rewards + (1 - batch.dones) * GAMMA * following.gather(dim=2, index=greedy).squeeze(dim=2)
    index = batch.actions[..., None].expand(SIZE, policy.n_quantiles, 1)
    found = th.gather(policy.quantile_net(batch.observations), dim=2, index=index).squeeze(dim=2)
    return quantile_huber_loss(found, target, sum_over_quantiles=True)


def td3_actor_loss(policy, batch, number):
    return -policy.critic.q1_forward(batch.observations, policy.actor(batch.observations)).mean()


def td3_critic_loss(policy, batch, number):
    th.manual_seed(SEED + number)
    with th.no_grad():
        noise = batch.actions.clone().normal_(0, 0.2).clamp(-0.5, 0.5)
        actions = (policy.actor_target(batch.next_observations) + noise).clamp(-1, 1)
        values, _ = th.min(th.cat(policy.critic_target(batch.next_observations, actions), dim=1), dim=1, keepdim=True)
        target = batch.rewards + (1 - batch.dones) * GAMMA * values
    return sum(F.mse_loss(q, target) for q in policy.critic(batch.observations, batch.actions))


def tqc_actor_loss(policy, batch, number):
    th.manual_seed(SEED + number)
    actions, log_prob = policy.actor.action_log_prob(batch.observations)
    values = policy.critic(batch.observations, actions).mean(dim=2).mean(dim=1, keepdim=True)
    return (ENT_COEF * log_prob.reshape(-1, 1) - values).mean()


def tqc_critic_loss(policy, batch, number):
    th.manual_seed(SEED + number)
    with th.no_grad():
        actions, log_prob = policy.actor.action_log_prob(batch.next_observations)
        quantiles, _ = th.sort(policy.critic_target(batch.next_observations, actions).reshape(SIZE, -1))
        kept = quantiles[:, : policy.critic.quantiles_total - 2 * policy.critic.n_critics] - ENT_COEF * log_prob.reshape(-1, 1)
        target = (batch.rewards + (1 - batch.dones) * GAMMA * kept).unsqueeze(dim=1)
    return quantile_huber_loss(policy.critic(batch.observations, batch.actions), target, sum_over_quantiles=False)


def layers(path, heads):
    """Slices (tensor, axis) of the units of a chain of two hidden layers: rows, biases, columns of what follows."""
    first, second = f"{path}.0", f"{path}.2"
    own = {name: [(f"{name}.weight", 0), (f"{name}.bias", 0)] for name in (first, second)}
    own[first].append((f"{second}.weight", 1))
    own[second] += [(f"{head}.weight", 1) for head in heads]
    return own


def twins(n_critics):
    chains = [layers(f"critic.qf{twin}", [f"critic.qf{twin}.4"]) for twin in range(n_critics)]
    return {name: [piece for chain in chains for piece in list(chain.values())[place]] for place, name in enumerate(chains[0])}


def flattened(grads, parameters):
    return th.cat([(th.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, grads, strict=True)])


def dense_scores(policy, loss, batches, groups):
    names = list(dict.fromkeys(tensor for pieces in groups.values() for tensor, _ in pieces))
    parameters = [dict(policy.named_parameters())[name] for name in names]
    total = sum(loss(policy, batch, number) for number, batch in enumerate(batches))
    grads = th.autograd.grad(total, parameters, create_graph=True, allow_unused=True)
    flat = th.cat([(th.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, grads, strict=True)])
    rows = [th.autograd.grad(g, parameters, retain_graph=True, allow_unused=True) for g in flat] if flat.requires_grad else []
    hessian = th.stack(
        [
            th.cat([(th.zeros_like(p) if r is None else r).flatten() for p, r in zip(parameters, row, strict=True)])
            for row in rows
        ]
    )
    assert th.allclose(hessian, hessian.T, atol=1e-9 * float(hessian.abs().max()))
    product = (th.cat([p.detach().flatten() for p in parameters]) * (hessian @ flat.detach())).abs()
    parts = dict(zip(names, product.split([p.numel() for p in parameters]), strict=True))
    shaped = {name: parts[name].reshape(p.shape).numpy() for name, p in zip(names, parameters, strict=True)}

    def over_others(piece):
        array, axis = shaped[piece[0]], piece[1]
        if isinstance(axis, tuple):  # so many positions a unit
            axis, positions = axis
            array = array.reshape(len(array), -1, positions)
        return array.sum(tuple(place for place in range(array.ndim) if place != axis))

    return {group: np.sum([over_others(piece) for piece in pieces], axis=0) for group, pieces in groups.items()}


# The rows of a `log_std` are cut with their units, but have no part in scores: at zero a unit's noise is not gone, but 1.
CASES = ("ppo_discrete", "ppo_box", "ppo_sde", "sac", "sac_sde", "sac_three_critics")


@pytest.mark.parametrize("network", ["actor", "critic"])
@pytest.mark.parametrize("case", CASES)
def test_crop_is_the_dense_hessian(case, network):
    policy = in_double(AGENTS[case](net_arch=ARCH).policy)
    if case.startswith("ppo"):
        batches = [ppo_batch(policy) for _ in range(2)]
        loss = ppo_actor_loss if network == "actor" else ppo_critic_loss
        actor, critic = layers("mlp_extractor.policy_net", ["action_net"]), layers("mlp_extractor.value_net", ["value_net"])
    else:
        batches = [sac_batch(policy) for _ in range(2)]
        loss = sac_actor_loss if network == "actor" else sac_critic_loss
        heads = ["actor.mu.0"] if case == "sac_sde" else ["actor.mu", "actor.log_std"]
        actor, critic = layers("actor.latent_pi", heads), twins(len(policy.critic.q_networks))
    groups = actor if network == "actor" else critic
    compare(policy, network, loss, batches, groups)


def compare(policy, network, loss, batches, groups):
    plan = rl_crop.plan_policy_pruning(
        policy, {network: 0.5}, batches=batches, gamma=GAMMA, ent_coef=ENT_COEF, seed=SEED, compensation="none"
    )
    expected = dense_scores(policy, loss, batches, groups)
    assert plan.scores.keys() == expected.keys()
    for name, scores in plan.scores.items():
        error = np.abs(scores - expected[name]).max() / expected[name].max()
        assert error <= 1e-8, (name, error)


def in_double(policy):
    """The policy in double precision, away from where it began."""
    policy = policy.double()
    th.manual_seed(0)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    return policy


TD3_ARCH = {"pi": [6, 5], "qf": [5, 4]}
OTHERS = {
    "dqn": ("dqn", {"net_arch": [6, 5]}, "critic", q_batch, q_loss, layers("q_net.q_net", ["q_net.q_net.4"])),
    "qrdqn": (
        "qrdqn", {"net_arch": [6, 5]}, "critic", q_batch, quantile_q_loss,
        layers("quantile_net.quantile_net", ["quantile_net.quantile_net.4"]),
    ),
    "td3_actor": ("td3", {"net_arch": TD3_ARCH}, "actor", sac_batch, td3_actor_loss, layers("actor.mu", ["actor.mu.4"])),
    "td3_critic": ("td3", {"net_arch": TD3_ARCH}, "critic", sac_batch, td3_critic_loss, twins(2)),
    "tqc_actor": (
        "tqc", {"net_arch": TD3_ARCH, "policy_kwargs": QUANTILES}, "actor", sac_batch, tqc_actor_loss,
        layers("actor.latent_pi", ["actor.mu", "actor.log_std"]),
    ),
    "tqc_critic": (
        "tqc", {"net_arch": TD3_ARCH, "policy_kwargs": QUANTILES}, "critic", sac_batch, tqc_critic_loss, twins(2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_crop_of_other_algorithms(case):
    name, keywords, network, batch, loss, groups = OTHERS[case]
    policy = in_double(AGENTS[name](**keywords).policy)
    compare(policy, network, loss, [batch(policy) for _ in range(2)], groups)


class Convolutions(BaseFeaturesExtractor):
    """Two small convolutions and a linear layer."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 5)
        self.net = th.nn.Sequential(
            th.nn.Conv2d(1, 4, 8, stride=6), th.nn.Tanh(), th.nn.Conv2d(4, 3, 3, stride=3), th.nn.Tanh(), th.nn.Flatten(),
            th.nn.Linear(12, 5), th.nn.Tanh(),
        )  # fmt: skip

    def forward(self, observations):
        return self.net(observations.to(self.net[0].weight.dtype))


def whole_loss(policy, batch, number):
    return ppo_actor_loss(policy, batch, number) + 0.5 * ppo_critic_loss(policy, batch, number)


def test_crop_of_a_shared_convolutional_extractor():
    """A channel that is flattened owns a column of the linear layer for every position (here four)."""
    model = AGENTS["ppo_images"](net_arch=[3], policy_kwargs={"features_extractor_class": Convolutions})
    policy = in_double(model.policy)
    observations = th.randint(0, 256, (SIZE, 1, 44, 44), dtype=th.uint8)
    batch = RolloutBufferSamples(observations, th.randint(0, 6, (SIZE, 1)).double(), *(normal(SIZE) for _ in range(4)))
    net, mlp = "features_extractor.net", "mlp_extractor"
    names = [f"{net}.0", f"{net}.2", f"{net}.5"]
    groups = {name: [(f"{name}.weight", 0), (f"{name}.bias", 0)] for name in names}
    groups[names[0]].append((f"{names[1]}.weight", 1))
    groups[names[1]].append((f"{names[2]}.weight", (1, 4)))
    groups[names[2]] += [(f"{mlp}.policy_net.0.weight", 1), (f"{mlp}.value_net.0.weight", 1)]
    compare(policy, "features", whole_loss, [batch], groups)
