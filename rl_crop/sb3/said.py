"""What a callback does, but hardly as its user means it: said in one line, before training where that is known."""

import warnings
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from rl_crop.sb3.best_models import walk


def say_if_late(when: Any, end: int) -> None:
    """Warn where a time is not before the end of a run, so that nothing would train after the cut."""
    if isinstance(when, int) and not isinstance(when, bool) and when >= end:
        warnings.warn(
            f"when={when:,} is not before the end of this run ({end:,} timesteps): the cut comes when training has ended, "
            f"and nothing trains after it. Give an earlier time, or train for longer.",
            stacklevel=3,
        )


def say_if_several(callback: BaseCallback, root: Any) -> None:
    """Warn, once, where a list holds several callbacks of one class, whose states are saved over each other."""
    alike = [found for found in walk(root) if type(found) is type(callback)]
    if len(alike) > 1 and alike[0] is callback:
        warnings.warn(
            f"This list holds {len(alike)} callbacks of the class {type(callback).__name__}. Each acts, but what one has seen "
            f"is saved over the other's, so that a resumed run begins anew. One alone can name all networks: "
            f"sparsity={{'actor': 0.9, 'critic': 0.8}}.",
            stacklevel=3,
        )


def say_nothing_trained(timesteps: int) -> None:
    """Warn that a cut came when training had ended."""
    warnings.warn(
        f"The cut came when training had ended, at {timesteps:,} timesteps: nothing has trained since. Train on, or ask for "
        f"an earlier cut (when, until, latest).",
        stacklevel=3,
    )
