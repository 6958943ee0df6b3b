"""A cut that is only tried: what stands in its way is found before anything has been trained for it."""

from dataclasses import replace
from typing import Any

import torch as th

from rl_crop.core.errors import PruningError, lacks_memory
from rl_crop.core.model import Subject
from rl_crop.core.pruning.optimizer_state import with_inner
from rl_crop.core.pruning.planning import make_plan
from rl_crop.core.pruning.settings import Settings, Target

SHARE = 0.1
"""Of the units of every layer, where the size is yet to be found."""


def try_cut(subject: Subject, sparsity: Target | None, settings: Settings) -> None:
    """
    Cut units by magnitude, which needs no data, and put them back.

    :param subject: the model.
    :param sparsity: what is to go; ``None`` where that is to be found.
    :param settings: of the cut that is due later.
    :raises PruningError: it cannot be reached, or the model cannot be cut, or not once it has been trained.
    """
    if any(isinstance(optimizer, th.optim.LBFGS) for optimizer in with_inner(subject.optimizers)):
        raise PruningError("LBFGS will keep the history of all parameters in one vector, which cannot be cut: use another.")
    settings = replace(settings, criterion="magnitude", compensation="none")
    if sparsity is not None:
        make_plan(subject, sparsity, settings).rehearse()
        return
    unbounded: dict[str, Any] = {"scope": "layer", "max_params": None, "max_flops": None, "round_to": 1}
    try:
        plan = make_plan(subject, SHARE, replace(settings, **unbounded))
    except PruningError as error:
        if lacks_memory(error):
            raise
        return  # so many units may have to stay
    plan.rehearse()
