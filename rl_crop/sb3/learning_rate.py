"""The learning rate after a cut."""

import math
from collections.abc import Callable
from numbers import Real
from types import FunctionType
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from rl_crop.core.errors import PruningError
from rl_crop.core.pruning.surgery import Transaction

# Of no module, so that a saved agent holds the function itself: it has to load where this package is not installed.
_times: Callable[[Schedule, float], Schedule] = FunctionType(
    (lambda schedule, factor: lambda progress_remaining: factor * schedule(progress_remaining)).__code__, {}
)


def check_factor(factor: Any) -> float:
    """
    :param factor: what a learning rate is to be multiplied by.
    :return: the same.
    :raises PruningError: it is no positive number.
    """
    if not isinstance(factor, Real) or isinstance(factor, bool) or not 0 < float(factor) < math.inf:
        raise PruningError(f"learning_rate_factor={factor!r} must be a positive number: 1 leaves the learning rate as it is.")
    return float(factor)


def scale_learning_rate(model: BaseAlgorithm, factor: float, transaction: Transaction | None = None) -> None:
    """
    Multiply an agent's learning rate, now and in whatever is left of its schedule.

    :param model: the agent; a saved one keeps the new rate, also where this package is not installed.
    :param factor: what all its optimizers' rates are multiplied by from the next update on.
    :param transaction: one that undoes it.
    """
    if factor != 1:
        scaled = {
            "lr_schedule": FloatSchedule(_scaled(model.lr_schedule, factor)),
            "learning_rate": _scaled(model.learning_rate, factor),  # from which a loaded agent makes its schedule
        }
        for name, value in scaled.items():
            (setattr if transaction is None else transaction.set_attribute)(model, name, value)


def _scaled(rate: Any, factor: float) -> float | Schedule:
    if isinstance(rate, Real):
        return float(rate) * factor
    # Classes of Stable-Baselines3 stay what they are: unlike functions, they load under any version of Python.
    if type(rate) is FloatSchedule:
        return _scaled(rate.value_schedule, factor)
    if type(rate) is ConstantSchedule:
        return ConstantSchedule(rate.val * factor)
    if type(rate) is LinearSchedule:
        return LinearSchedule(rate.start * factor, rate.end * factor, rate.end_fraction)
    return _times(rate, factor)
