"""Where observations come from: the environment, and the wrappers whose work the exported file takes over."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

from rl_crop.core.errors import PruningError

# These hand observations on as they are.
_TRANSPARENT = (VecMonitor, VecCheckNan, VecVideoRecorder)


@dataclass(frozen=True)
class Source:
    """
    What the exported file takes as its observation.

    :param space: the space of these observations: what the environment gives beneath the folded wrappers, or, where no
        environment is known, what the policy takes
    :param wrappers: those whose work the file takes over, the innermost first
    :param env: the environment beneath them
    :param own: it is the one that the agent trains in, which must not be moved
    """

    space: spaces.Space
    wrappers: tuple[VecNormalize | VecTransposeImage, ...] = ()
    env: VecEnv | None = None
    own: bool = False

    def wrap(self, observation: Any) -> Any:
        """
        :param observation: as the file takes it, an array or a mapping from key to array, batch first
        :return: as ``predict`` takes it; statistics stand still
        """
        for wrapper in self.wrappers:
            if isinstance(wrapper, VecNormalize):
                observation = wrapper.normalize_obs(observation)
            else:
                observation = wrapper.transpose_observations(observation)
        return observation


def find_source(model: BaseAlgorithm | BasePolicy, env: gym.Env | VecEnv | None) -> Source:
    """
    Find the environment and the wrappers between it and the policy.

    :param model: an algorithm or a bare policy
    :param env: an environment that takes the place of the agent's own
    :return: what the file takes
    :raises PruningError: the environment is of another kind than the policy's, or a wrapper that cannot be folded in hides
        the normalisation
    """
    space = model.observation_space
    own = model.get_env() if isinstance(model, BaseAlgorithm) else None
    given: Any = own if env is None else env
    if given is None:
        return Source(space)
    # As Stable-Baselines3 wraps it: one environment, channels first.
    wrapped: Any = BaseAlgorithm._wrap_env(given, verbose=0, monitor_wrapper=False)
    if type(wrapped.observation_space) is not type(space) or get_obs_shape(wrapped.observation_space) != get_obs_shape(space):
        raise PruningError(
            f"The environment gives {wrapped.observation_space}, the policy takes {space}: "
            "give the environment that it was trained in, with the same wrappers."
        )
    folded: list[VecNormalize | VecTransposeImage] = []
    while isinstance(wrapped, VecEnvWrapper):
        if isinstance(wrapped, (VecNormalize, VecTransposeImage)):
            folded.append(wrapped)
        elif not isinstance(wrapped, _TRANSPARENT):
            break
        wrapped = wrapped.venv
    _refuse_hidden_normalization(wrapped)
    return Source(wrapped.observation_space, tuple(reversed(folded)), wrapped, own is not None and _same(wrapped, own))


def _refuse_hidden_normalization(env: VecEnv) -> None:
    outer, inner = type(env).__name__, env
    while isinstance(inner, VecEnvWrapper):
        inner = inner.venv
        if isinstance(inner, VecNormalize) and inner.norm_obs:
            raise PruningError(
                f"{outer} stands between VecNormalize and the policy and cannot be put into a file: an environment with "
                f"VecNormalize around {outer} can be exported."
            )


def _same(env: VecEnv, own: VecEnv) -> bool:
    """:return: both act on the same environments, whatever is wrapped around them."""
    first, second = (getattr(vec.unwrapped, "envs", None) for vec in (env, own))
    if first is None or second is None:
        return env.unwrapped is own.unwrapped
    return any(one.unwrapped is other.unwrapped for one in first for other in second)
