"""What a block of code must leave alone, of modules and of agents: copied, and compared bit for bit."""

import copy
import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from rl_crop.sb3.subject import algorithm_optimizers

SIZES = (
    "in_features", "out_features", "net_arch", "latent_dim_pi", "latent_dim_vf", "actor_kwargs", "critic_kwargs", "net_args",
    "features_dim", "_features_dim", "num_features", "normalized_shape", "in_channels", "out_channels", "groups", "training",
)  # fmt: skip
"""Attributes of modules that a cut changes, or must not."""
COUNTERS = (
    "num_timesteps", "_total_timesteps", "_episode_num", "_current_progress_remaining", "_n_updates", "_n_calls",
    "log_ent_coef", "exploration_rate",
)  # fmt: skip


def same(first: Any, second: Any) -> bool:
    """Bit for bit, through containers, arrays and tensors (NaN equals NaN)."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(same(one, other) for one, other in zip(first, second, strict=True))
    if type(first) is not type(second):
        return False
    if isinstance(first, th.Tensor):
        if first.dtype == second.dtype == th.bfloat16:  # numpy knows none
            first, second = first.view(th.int16), second.view(th.int16)
        return first.dtype == second.dtype and same(first.detach().numpy(), second.detach().numpy())
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    return bool(first == second)


def hooks(*owners: Any) -> list[dict[str, list[int]]]:
    """:return: identities of what is hooked into optimizers, modules and all that these hold; by owner and kind, if any."""
    parts = [part for owner in owners for part in (owner.modules() if isinstance(owner, nn.Module) else [owner])]
    found = [{key: [*map(id, kept.values())] for key, kept in vars(part).items() if key.endswith("_hooks")} for part in parts]
    return [{key: kept for key, kept in kinds.items() if kept} for kinds in found if any(kinds.values())]


def state(*modules: nn.Module, optimizers: Any = ()) -> dict[Any, Any]:
    """Everything that planning or a failed cut must leave alone: tensors, gradients, attributes, hooks, moments."""
    found: dict[Any, Any] = {"hooks": hooks(*modules, *optimizers)}
    for place, module in enumerate(modules):
        for name, child in module.named_modules():
            plain = {k: v for k, v in vars(child).items() if isinstance(v, (bool, int, float, str, tuple))}
            found[place, name] = plain | {k: repr(v) for k, v in vars(child).items() if k in SIZES}
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            found[place, name, "id"] = id(tensor)
            found[place, name, "data"] = tensor.detach().clone()
            found[place, name, "grad"] = None if tensor.grad is None else tensor.grad.clone()
            found[place, name, "free"] = tensor.requires_grad
    for place, optimizer in enumerate(optimizers):
        for parameter, slot in optimizer.state.items():
            found["optimizer", place, id(parameter)] = copied(slot)
    return found


def copied(slot: dict[str, Any]) -> dict[str, Any]:
    """A copy of what an optimizer keeps of one parameter."""
    return {key: value.clone() if isinstance(value, th.Tensor) else value for key, value in slot.items()}


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
    return [copied(slot) for optimizer in algorithm_optimizers(model) for slot in optimizer.state.values()]


def agent_state(model: BaseAlgorithm) -> dict[Any, Any]:
    """Everything that a failed cut must leave alone: that of the policy, what describes it, and its exploration noise."""
    return state(model.policy, optimizers=algorithm_optimizers(model)) | {
        "policy_kwargs": repr(model.policy_kwargs),
        "history": repr(getattr(model, "pruning_history", [])),
        "noise": noise(model),
        "vector": copy.deepcopy([getattr(model, "n_params", None), getattr(model, "weights", None)]),
        "statistics": {key: [id(x) for x in value] for key, value in vars(model).items() if "batch_norm_stats" in key},
    }


def noise(model: BaseAlgorithm) -> Any:
    """Exploration noise that is drawn before it is used."""
    distribution = getattr(getattr(model.policy, "actor", model.policy), "action_dist", None)
    values = [getattr(distribution, name, None) for name in ("latent_sde_dim", "exploration_mat", "exploration_matrices")]
    return [value.detach().clone() if isinstance(value, th.Tensor) else value for value in values]


def last_observation(model: BaseAlgorithm) -> Any:
    """A copy of what the environment gave last, or ``None`` before the first rollout."""
    return copy.deepcopy(model._last_obs)


def all_but_the_environment(model: BaseAlgorithm) -> dict[Any, Any]:
    """Everything that planning must leave alone where a rollout has to be collected for it."""
    buffer = getattr(model, "rollout_buffer", None) or getattr(model, "replay_buffer", None)
    found = agent_state(model) | {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state(),
        "spaces": [
            space._np_random and space._np_random.bit_generator.state
            for space in (model.action_space, model.observation_space)
        ],
        "buffer": held(buffer) if buffer is not None else {},
        "episodes": list(model.ep_info_buffer or []),
        "counters": [getattr(model, name, None) for name in COUNTERS],
    }
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        kept = normalize.obs_rms if hasattr(normalize, "obs_rms") else {}
        statistics = list(kept.values()) if isinstance(kept, dict) else [kept]
        found["normalize"] = [normalize.training, normalize.returns, *(vars(rms) for rms in (*statistics, normalize.ret_rms))]
    return copy.deepcopy(found)


def everything(model: BaseAlgorithm) -> dict[Any, Any]:
    """Everything that planning must leave alone, also what the environment gave last."""
    own = [getattr(model, name, None) for name in ("_last_obs", "_last_original_obs", "_last_lstm_states")]
    return all_but_the_environment(model) | {"environment": copy.deepcopy(own)}


def held(buffer: Any) -> dict[str, Any]:
    """What a buffer holds, without what it belongs to."""
    apart = ("device", "env", "observation_space", "action_space")
    return {key: value for key, value in vars(buffer).items() if key not in apart and not callable(value)}


@contextmanager
def unmoved(model: BaseAlgorithm, look: Callable[[BaseAlgorithm], dict[Any, Any]] = agent_state) -> Iterator[None]:
    """Assert that a block leaves what ``look`` finds as it was."""
    before = look(model)
    yield
    after = look(model)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert same(value, after[key]), key


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
    assert same(tensors(loaded), tensors(model))
    assert same(optimizer_state(loaded), optimizer_state(model))
    assert "net_arch" not in model.policy_kwargs or model.policy_kwargs["net_arch"] == model.policy.net_arch
    assert [None if x is None else np.shape(x) for x in noise(loaded)][:2] == [
        None if x is None else np.shape(x) for x in noise(model)
    ][:2]
    live = {buffer.data_ptr() for pair in targets(model.policy) for module in pair for buffer in module.buffers()}
    for key, stats in vars(model).items():
        assert "batch_norm_stats" not in key or {tensor.data_ptr() for tensor in stats} <= live
    assert not hasattr(model, "n_params") or model.n_params == len(model.weights) == len(loaded.weights)
    return loaded
