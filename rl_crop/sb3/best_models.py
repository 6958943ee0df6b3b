"""Callbacks beside ``PruningCallback`` that remember a best model: after a cut they start anew."""

from functools import partial
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    EventCallback,
    StopTrainingOnNoModelImprovement,
)

from rl_crop.core.pruning.surgery import Transaction


def keep_dense_best(callback: Any, event: int, transaction: Transaction) -> None:
    """
    The best model so far is of the old shape: it keeps a name of its own, and counting starts again.

    :param callback: the root of all callbacks.
    :param event: how many cuts there were before: 0 for the first one, where ``best_model.zip`` becomes
        ``best_model_dense.zip``; the best one between two cuts becomes ``best_model_event<number>.zip``.
    :param transaction: one that undoes it.
    """
    for found in walk(callback):
        if isinstance(found, StopTrainingOnNoModelImprovement):
            transaction.set_attribute(found, "last_best_mean_reward", -float("inf"))
            transaction.set_attribute(found, "no_improvement_evals", 0)
        if isinstance(found, EvalCallback):
            transaction.set_attribute(found, "best_mean_reward", -float("inf"))
            if found.best_model_save_path is not None:
                best = Path(found.best_model_save_path) / "best_model.zip"
                dense = best.with_name("best_model_dense.zip" if event == 0 else f"best_model_event{event}.zip")
                if best.exists():
                    transaction.call(partial(_rename, dense, best))
                    _rename(best, dense)


def _rename(old: Path, new: Path) -> None:
    if old.exists():
        old.replace(new)


def walk(callback: Any) -> list[BaseCallback]:
    """:return: a callback and all its children."""
    if isinstance(callback, CallbackList):
        return [found for child in callback.callbacks for found in walk(child)]
    if isinstance(callback, EventCallback):
        return [callback, *walk(callback.callback), *walk(getattr(callback, "callback_on_new_best", None))]
    return [callback] if isinstance(callback, BaseCallback) else []
