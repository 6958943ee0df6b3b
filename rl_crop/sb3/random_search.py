"""When an agent without rollout or replay buffer (ARS) can be cut: between two updates, which hold sizes of their own."""

from collections.abc import Callable, Mapping
from typing import Any

from rl_crop.core.errors import PruningError


def between_updates(model: Any, action: Callable[[], None]) -> None:
    """
    Do something once the update that is running has ended, before the next one begins.

    An update holds perturbations of all parameters from before its rollouts until after them, so no callback comes at a
    time at which shapes may change. What every update begins with is wrapped, once.

    :param model: the agent, in training.
    :param action: what to do; see :func:`no_longer`, where training ends before.
    """
    original = model._update_current_progress_remaining

    def wrapped(*args: Any) -> None:
        no_longer(model)
        original(*args)
        action()

    model._update_current_progress_remaining = wrapped


def no_longer(model: Any) -> None:
    """Forget what was to be done between two updates; the agent can be saved again."""
    vars(model).pop("_update_current_progress_remaining", None)


def refuse_workers(local_names: Mapping[str, Any]) -> None:
    """:raises PruningError: candidates are evaluated in other processes, whose policies would keep their old shape."""
    if local_names.get("async_eval") is not None:
        raise PruningError("async_eval holds copies of the policy in other processes: train without it until the cut.")
