"""Whether a call of ``learn`` still runs: Stable-Baselines3 tells no callback that an exception has ended it."""

import sys
import weakref
from collections.abc import Callable
from types import FrameType

from stable_baselines3.common.base_class import BaseAlgorithm


def still_learning(model: BaseAlgorithm) -> Callable[[], bool]:
    """
    :param model: an agent whose training has begun.
    :return: says whether this training goes on: no other one has begun since, and ``learn`` is on the stack of a thread (of a
        loop of one's own, that calls callbacks itself, only the first is known).
    """
    reference, start, in_learn = weakref.ref(model), model.start_time, _learns(model)

    def running() -> bool:
        agent = reference()
        return agent is not None and agent.start_time == start and (not in_learn or _learns(agent))

    return running


def _learns(model: BaseAlgorithm) -> bool:
    own = sys._getframe()
    return _in_learn(own, model) or any(_in_learn(frame, model) for frame in sys._current_frames().values())


def _in_learn(frame: FrameType | None, model: BaseAlgorithm) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "learn" and frame.f_locals.get("self") is model:
            return True
        frame = frame.f_back
    return False
