"""One table of small agents, each a cell of the support matrix, and what a test reads off them."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from rl_crop.sb3.subject import algorithm_optimizers
from tests.zoo.building import agent, ppo, sac
from tests.zoo.image_agents import OwnExtractor
from tests.zoo.worlds import Normed, OwnPolicy

SEPARATE, SHARED = {"share_features_extractor": False}, {"share_features_extractor": True}
SMALL, TINY = {"features_extractor_kwargs": {"features_dim": 20}}, {"features_extractor_kwargs": {"cnn_output_dim": 16}}
OWN = {"features_extractor_class": OwnExtractor, "features_extractor_kwargs": {"features_dim": 24, "channels": 12}}
NORMED = {"features_extractor_class": Normed}
QUANTILES = {"n_quantiles": 7}
SDE = {"use_sde": True, "sde_sample_freq": 4}
UNEVEN, LINEAR_ACTOR, LINEAR_CRITIC = {"pi": [24, 12], "qf": [32]}, {"pi": [], "qf": [16, 16]}, {"pi": [32], "qf": []}


def activation(kind: type[nn.Module]) -> dict[str, Any]:
    return {"activation_fn": kind}


CART, PENDULUM = "CartPole-v1", "Pendulum-v1"
VECTORS: dict[str, Callable[..., BaseAlgorithm]] = {
    "ppo_discrete": ppo,
    "ppo_box": lambda **k: ppo(PENDULUM, **k),
    "ppo_sde": lambda **k: ppo(PENDULUM, env={"n_envs": 2}, **SDE, **k),
    "ppo_uneven": lambda **k: ppo(net_arch={"pi": [24, 12], "vf": [32]}, policy_kwargs=SEPARATE, **k),
    "ppo_linear_actor": lambda **k: ppo(PENDULUM, net_arch={"pi": [], "vf": [16, 16]}, use_sde=True, **k),
    "ppo_linear_critic": lambda **k: ppo(net_arch={"pi": [32], "vf": []}, **k),
    "ppo_normalized": lambda **k: ppo(env={"normalize": True, "n_envs": 3}, **k),
    "ppo_dict": lambda **k: ppo(env={"dict_obs": True}, **k),
    "ppo_multi_discrete": agent(PPO, "multi_discrete"),
    "ppo_multi_binary": agent(PPO, "multi_binary"),
    "ppo_discrete_observations": agent(PPO, "discrete_observations"),
    "ppo_sde_of_another_kind": agent(
        PPO, PENDULUM, use_sde=True, policy_kwargs={"full_std": False, "use_expln": True, "squash_output": True}
    ),
    "ppo_frames": agent(PPO, "frames"),
    "ppo_dict_normalized": agent(PPO, "dict_normalized"),
    "ppo_deep_relu": agent(PPO, CART, net_arch=[16] * 4, policy_kwargs=activation(nn.ReLU)),
    "ppo_amsgrad": agent(PPO, CART, policy_kwargs={"optimizer_kwargs": {"amsgrad": True}}),
    "ppo_clipped_values": agent(PPO, CART, clip_range_vf=0.2, target_kl=0.5, normalize_advantage=False),
    "a2c": agent(A2C, CART, policy_kwargs=activation(nn.ELU)),
    "a2c_sde": agent(A2C, PENDULUM, **SDE),
    "a2c_adamw": agent(
        A2C, CART, use_rms_prop=False, policy_kwargs={"optimizer_class": th.optim.AdamW, **activation(nn.LeakyReLU)}
    ),
    "trpo": agent(TRPO, CART),
    "trpo_sde": agent(TRPO, PENDULUM, target_kl=0.1, **SDE),
    "maskable": agent(MaskablePPO, "masks"),
    "maskable_multi_discrete": agent(MaskablePPO, "masks_multi"),
    "recurrent": agent(RecurrentPPO, CART),
    "recurrent_shared": agent(RecurrentPPO, CART, policy_kwargs={"shared_lstm": True, "enable_critic_lstm": False}),
    "recurrent_without_critic": agent(
        RecurrentPPO, {"env_id": PENDULUM, "n_envs": 2}, policy_kwargs={"enable_critic_lstm": False, "n_lstm_layers": 2}, **SDE
    ),
    "dqn": agent(DQN, CART),
    "dqn_uneven": agent(DQN, CART, net_arch=[20, 10, 6], n_steps=3),
    "dqn_hindsight": agent(DQN, "bits", replay_buffer_class=HerReplayBuffer, learning_starts=60),
    "qrdqn": agent(QRDQN, CART, policy_kwargs={**QUANTILES, **activation(nn.SiLU)}),
    "sac": sac,
    "sac_sde": lambda **k: sac(use_sde=True, sde_sample_freq=2, use_sde_at_warmup=True, **k),
    "sac_one_critic": lambda **k: sac(UNEVEN, policy_kwargs={"n_critics": 1}, **k),
    "sac_three_critics": lambda **k: sac(policy_kwargs={"n_critics": 3, **SHARED}, ent_coef=0.1, **k),
    "sac_linear_actor": lambda **k: sac(net_arch=LINEAR_ACTOR, use_sde=True, **k),
    "sac_linear_critic": lambda **k: sac(net_arch=LINEAR_CRITIC, **k),
    "sac_normalized": lambda **k: sac(env={"normalize": True, "n_envs": 2}, target_update_interval=2, **k),
    "sac_dict": lambda **k: sac(env={"dict_obs": True}, **k),
    "sac_n_steps": agent(SAC, PENDULUM, n_steps=3, policy_kwargs=activation(nn.GELU)),
    "sac_sde_without_clipping": agent(SAC, PENDULUM, use_sde=True, policy_kwargs={"use_expln": True, "clip_mean": 0.0}),
    "sac_momentum": agent(
        SAC,
        PENDULUM,
        learning_rate=1e-4,
        policy_kwargs={"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
    ),
    "sac_double_precision": agent(SAC, "double"),
    "sac_rewards_normalized": agent(SAC, "rewards_normalized"),
    "sac_hindsight": agent(SAC, "bits_continuous", replay_buffer_class=HerReplayBuffer, learning_starts=60),
    "td3": agent(TD3, PENDULUM, policy_kwargs=activation(nn.SiLU)),
    "td3_four_critics": agent(TD3, PENDULUM, net_arch=UNEVEN, policy_kwargs={"n_critics": 4, **SHARED}, n_steps=3),
    "td3_linear_critic": agent(TD3, PENDULUM, net_arch=LINEAR_CRITIC),
    "ddpg": agent(DDPG, PENDULUM),
    "tqc": agent(TQC, PENDULUM, policy_kwargs=QUANTILES),
    "tqc_sde": agent(TQC, PENDULUM, use_sde=True, net_arch=UNEVEN, policy_kwargs={"n_critics": 3, **QUANTILES}),
    "crossq": agent(CrossQ, PENDULUM),
    "crossq_sde": agent(CrossQ, PENDULUM, use_sde=True, net_arch=UNEVEN, policy_kwargs={"n_critics": 1}),
    "crossq_linear_actor": agent(CrossQ, PENDULUM, net_arch=LINEAR_ACTOR, policy_kwargs={"batch_norm": False, "n_critics": 3}),
    "ars": agent(ARS, CART),
    "ars_box": agent(ARS, PENDULUM, net_arch=[16, 8]),
    "ppo_own_policy": agent(PPO, CART, policy=OwnPolicy),
}
"""Agents without a layer in their features extractors: pruned, they load in plain Stable-Baselines3."""

IMAGES, BOX, MIXED, MIXED_BOX = "images", "images_box", "mixed", "mixed_box"
EXTRACTORS: dict[str, Callable[..., BaseAlgorithm]] = {
    "ppo_pong": agent(PPO, "pong", net_arch=None, policy_kwargs={"features_extractor_kwargs": {"features_dim": 64}}),
    "ppo_images": agent(PPO, IMAGES, net_arch=None, policy_kwargs=SMALL),
    "ppo_images_separate": agent(PPO, IMAGES, policy_kwargs={**SMALL, **SEPARATE}),
    "ppo_images_sde": agent(PPO, BOX, net_arch=[], policy_kwargs=SMALL, use_sde=True),
    "ppo_mixed": agent(PPO, MIXED, policy_kwargs=TINY),
    "ppo_own": agent(PPO, IMAGES, policy_kwargs=OWN),
    "ppo_normed": agent(PPO, CART, policy_kwargs=NORMED),
    "ppo_normed_separate": agent(PPO, CART, policy_kwargs=NORMED | SEPARATE),
    "a2c_images": agent(A2C, IMAGES, policy_kwargs=SMALL, learning_rate=1e-3),
    "a2c_mixed": agent(A2C, MIXED, policy_kwargs=TINY | SEPARATE, learning_rate=1e-3),
    "trpo_images": agent(TRPO, IMAGES, policy_kwargs=SMALL),
    "trpo_mixed": agent(TRPO, MIXED, policy_kwargs=TINY | SEPARATE),
    "maskable_images": agent(MaskablePPO, "masks_images", policy_kwargs=SMALL),
    "maskable_mixed": agent(MaskablePPO, "masks_mixed", policy_kwargs=TINY | SEPARATE),
    "recurrent_images": agent(RecurrentPPO, IMAGES, policy_kwargs=SMALL),
    "recurrent_mixed": agent(RecurrentPPO, MIXED, policy_kwargs={**TINY, **SEPARATE, "enable_critic_lstm": False}),
    "dqn_images": agent(DQN, IMAGES, net_arch=None, policy_kwargs=SMALL),
    "dqn_mixed": agent(DQN, MIXED, policy_kwargs=TINY),
    "dqn_own": agent(DQN, IMAGES, policy_kwargs=OWN),
    "qrdqn_images": agent(QRDQN, IMAGES, policy_kwargs=SMALL | QUANTILES),
    "qrdqn_mixed": agent(QRDQN, MIXED, policy_kwargs=TINY | QUANTILES),
    "sac_images": agent(SAC, BOX, policy_kwargs=SMALL),
    "sac_images_shared": agent(SAC, BOX, policy_kwargs=SMALL | SHARED, use_sde=True),
    "sac_mixed": agent(SAC, MIXED_BOX, policy_kwargs=TINY),
    "sac_own": agent(SAC, BOX, policy_kwargs=OWN),
    "sac_normed_shared": agent(SAC, PENDULUM, policy_kwargs=NORMED | SHARED),
    "td3_images": agent(TD3, BOX, policy_kwargs=SMALL),
    "td3_own_shared": agent(TD3, BOX, policy_kwargs=OWN | SHARED),
    "td3_mixed": agent(TD3, MIXED_BOX, policy_kwargs=TINY),
    "ddpg_images": agent(DDPG, BOX, policy_kwargs=SMALL | SHARED),
    "ddpg_mixed": agent(DDPG, MIXED_BOX, policy_kwargs=TINY),
    "tqc_images": agent(TQC, BOX, policy_kwargs=SMALL | QUANTILES),
    "tqc_mixed": agent(TQC, MIXED_BOX, policy_kwargs={**TINY, **SHARED, **QUANTILES}),
    "crossq_normed": agent(CrossQ, PENDULUM, policy_kwargs=NORMED),
    "crossq_normed_shared": agent(CrossQ, PENDULUM, policy_kwargs=NORMED | SHARED),
}
"""Agents whose features extractors are pruned: they load where this package is installed."""

AGENTS = VECTORS | EXTRACTORS

SCORING = {"n_batches": 2, "batch_size": 64}
"""Small scoring batches."""

SIZES = (
    "in_features", "out_features", "net_arch", "latent_dim_pi", "latent_dim_vf", "actor_kwargs", "critic_kwargs", "net_args",
    "features_dim", "_features_dim", "num_features", "normalized_shape", "in_channels", "out_channels", "groups", "training",
)  # fmt: skip
"""Attributes of modules that a cut changes, or must not."""


def tensors(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    """A copy of every parameter and buffer of the policy, targets included."""
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def targets(policy: Any) -> list[tuple[nn.Module, nn.Module]]:
    """Every network that a target follows, with its target."""
    names = [name for name in ("actor", "critic", "q_net", "quantile_net") if hasattr(policy, f"{name}_target")]
    return [(getattr(policy, name), getattr(policy, f"{name}_target")) for name in names]


def sizes(policy: Any) -> dict[str, str]:
    """Every size that is stored beside the parameters, by the path of its module."""
    return {
        f"{name}.{key}": repr(value)
        for name, module in policy.named_modules()
        for key, value in vars(module).items()
        if key in SIZES
    }


def optimizer_state(model: BaseAlgorithm) -> list[dict[str, Any]]:
    """A copy of what optimizers keep."""
    return [
        {key: value.clone() if isinstance(value, th.Tensor) else value for key, value in slot.items()}
        for optimizer in algorithm_optimizers(model)
        for slot in optimizer.state.values()
    ]


def state(model: BaseAlgorithm) -> dict[str, Any]:
    """Everything that a failed cut must leave alone, copied: tensors, gradients, optimizer state, sizes."""
    return {
        "tensors": tensors(model),
        "ids": [id(p) for p in model.policy.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.policy.parameters()],
        "optimizers": optimizer_state(model),
        "sizes": sizes(model.policy),
        "policy_kwargs": repr(model.policy_kwargs),
        "history": repr(getattr(model, "pruning_history", [])),
        "noise": noise(model),
        "vector": [getattr(model, "n_params", None), getattr(model, "weights", None)],
        "statistics": {key: [id(x) for x in value] for key, value in vars(model).items() if "batch_norm_stats" in key},
    }


def noise(model: BaseAlgorithm) -> Any:
    """Exploration noise that is drawn before it is used."""
    distribution = getattr(getattr(model.policy, "actor", model.policy), "action_dist", None)
    values = [getattr(distribution, name, None) for name in ("latent_sde_dim", "exploration_mat", "exploration_matrices")]
    return [value.detach().clone() if isinstance(value, th.Tensor) else value for value in values]


def equal(first: Any, second: Any) -> bool:
    """Bit for bit, through containers, arrays and tensors (NaN equals NaN)."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(equal(one, other) for one, other in zip(first, second, strict=True))
    if type(first) is not type(second):
        return False
    if isinstance(first, th.Tensor):
        return first.shape == second.shape and first.dtype == second.dtype and np.array_equal(
            first.detach().numpy(), second.detach().numpy(), equal_nan=first.is_floating_point()
        )  # fmt: skip
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    return bool(first == second)


def consistent(model: BaseAlgorithm) -> BaseAlgorithm:
    """
    Assert that optimizer state, targets and every stored size are those of the parameters.

    :return: the agent as Stable-Baselines3 builds it anew from its zip.
    """
    for optimizer in algorithm_optimizers(model):
        for parameter, slot in optimizer.state.items():
            assert all(
                value.shape == parameter.shape for value in slot.values() if isinstance(value, th.Tensor) and value.dim()
            )
    for network, target in targets(model.policy):
        assert [p.shape for p in network.parameters()] == [p.shape for p in target.parameters()]
    zipped = io.BytesIO()
    model.save(zipped)
    loaded = type(model).load(zipped, env=model.get_env(), device="cpu")
    model.policy.set_training_mode(False)
    loaded.policy.set_training_mode(False)
    assert sizes(loaded.policy) == sizes(model.policy)
    assert equal(tensors(loaded), tensors(model))
    assert equal(optimizer_state(loaded), optimizer_state(model))
    assert "net_arch" not in model.policy_kwargs or model.policy_kwargs["net_arch"] == model.policy.net_arch
    assert [None if x is None else np.shape(x) for x in noise(loaded)][:2] == [
        None if x is None else np.shape(x) for x in noise(model)
    ][:2]
    live = {buffer.data_ptr() for pair in targets(model.policy) for module in pair for buffer in module.buffers()}
    for key, stats in vars(model).items():
        assert "batch_norm_stats" not in key or {tensor.data_ptr() for tensor in stats} <= live
    assert not hasattr(model, "n_params") or model.n_params == len(model.weights) == len(loaded.weights)
    return loaded


@contextmanager
def unmoved(model: BaseAlgorithm) -> Iterator[None]:
    """Assert that a block leaves all of :func:`state` as it was."""
    before = state(model)
    yield
    after = state(model)
    for key, value in before.items():
        assert equal(value, after[key]), key
