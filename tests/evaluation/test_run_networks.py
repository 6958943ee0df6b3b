import pytest
import torch as th
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

from rl_crop.evaluation.networks import count_flops, count_left, count_parameters, read_widths

# Pendulum: 3 observations, 1 action; CartPole: 4 observations, 2 actions
CASES = [
    (PPO, "CartPole-v1", {"pi": [5, 6], "vf": [7]}, {"actor": 25 + 36 + 14, "critic": 35 + 8}),
    (A2C, "Pendulum-v1", {"pi": [5], "vf": [7]}, {"actor": 20 + 6 + 1, "critic": 28 + 8}),
    (SAC, "Pendulum-v1", {"pi": [5, 6], "qf": [7]}, {"actor": 20 + 36 + 2 * 7, "critic": 2 * (35 + 8)}),
    (TD3, "Pendulum-v1", {"pi": [5], "qf": [7]}, {"actor": 20 + 6, "critic": 2 * (35 + 8)}),
    (DDPG, "Pendulum-v1", {"pi": [5], "qf": [7]}, {"actor": 20 + 6, "critic": 35 + 8}),
    (DQN, "CartPole-v1", [5, 6], {"critic": 25 + 36 + 14}),
    (QRDQN, "CartPole-v1", [5, 6], {"critic": 25 + 36 + 7 * 400}),
    (TQC, "Pendulum-v1", {"pi": [5], "qf": [7]}, {"actor": 20 + 2 * 6, "critic": 2 * (35 + 8 * 25)}),
    (CrossQ, "Pendulum-v1", {"pi": [5], "qf": [7]}, {"actor": 20 + 2 * 6 + 2 * 8, "critic": 2 * (35 + 8 + 2 * 11)}),
    (TRPO, "CartPole-v1", {"pi": [5, 6], "vf": [7]}, {"actor": 25 + 36 + 14, "critic": 35 + 8}),
    (ARS, "CartPole-v1", [5, 6], {"actor": 25 + 36 + 14}),
]


@pytest.mark.parametrize("algorithm, env, net_arch, expected", CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_counts_without_targets_and_widths_that_build_the_same_network(algorithm, env, net_arch, expected):
    model = algorithm("MlpPolicy", env, policy_kwargs={"net_arch": net_arch}, device="cpu")
    assert count_parameters(model) == expected | {"total": sum(expected.values())}
    assert read_widths(model) == net_arch
    weights = [p for name, p in model.policy.named_parameters() if p.dim() == 2 and "_target" not in name]
    assert count_flops(model) == 2 * sum(weight.numel() for weight in weights)
    with th.no_grad():
        weights[0][0, 0] = 0
    assert count_left(model) == sum(expected.values()) - sum(int((weight == 0).sum()) for weight in weights)
