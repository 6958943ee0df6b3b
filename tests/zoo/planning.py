"""Everything that planning must not touch."""

import copy
import random

import numpy as np
import torch as th

from tests.zoo.agents import equal, state

COUNTERS = (
    "num_timesteps", "_total_timesteps", "_episode_num", "_current_progress_remaining", "_n_updates", "_n_calls",
    "log_ent_coef", "exploration_rate",
)  # fmt: skip


def everything(model, collected=False):
    """A copy of all of it; where a rollout has to be ``collected`` for a plan, the environment alone may move."""
    buffer = getattr(model, "rollout_buffer", None) or getattr(model, "replay_buffer", None)
    found = state(model)
    found |= {
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
        "requires_grad": [p.requires_grad for p in model.policy.parameters()],
    }
    if not collected:
        found["last_obs"] = [model._last_obs, model._last_original_obs]
        found["last_states"] = [list(pair) for pair in getattr(model, "_last_lstm_states", None) or ()]
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        kept = normalize.obs_rms if hasattr(normalize, "obs_rms") else {}
        statistics = list(kept.values()) if isinstance(kept, dict) else [kept]
        found["normalize"] = [normalize.training, normalize.returns, *(vars(rms) for rms in (*statistics, normalize.ret_rms))]
    return copy.deepcopy(found)


def held(buffer):
    """What a buffer holds, without what it belongs to."""
    apart = ("device", "env", "observation_space", "action_space")
    return {key: value for key, value in vars(buffer).items() if key not in apart and not callable(value)}


def assert_untouched(model, before, collected=False):
    """Nothing that :func:`everything` found has changed."""
    after = everything(model, collected)
    for key, value in before.items():
        assert equal(value, after[key]), key
