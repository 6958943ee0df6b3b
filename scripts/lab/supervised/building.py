"""From a configuration to a trainer."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch as th
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from lab.supervised.config import SupervisedConfig
from lab.supervised.data import Data
from lab.supervised.datasets import DATASETS
from lab.supervised.networks import NETWORKS
from rl_crop.core.errors import PruningError
from rl_crop.supervised.objectives import OBJECTIVES, Objective, cross_entropy
from rl_crop.supervised.trainer import Trainer

WHOLE_RUN = {
    "OneCycleLR": "total_steps",
    "CosineAnnealingLR": "T_max",
    "LinearLR": "total_iters",
    "PolynomialLR": "total_iters",
    "ConstantLR": "total_iters",
}
"""The argument of a schedule that says how long it lasts."""


def load_data(config: SupervisedConfig) -> Data:
    """
    :param config: the run.
    :return: its data set.
    :raises MissingDataError: its files are not there.
    """
    return _called("data", DATASETS[config.data["name"]], config.data)


def build_network(config: SupervisedConfig, data: Data, seed: int) -> nn.Module:
    """
    :param config: the run.
    :param data: its data set.
    :param seed: of the initial weights.
    :return: the network, on its device.
    """
    th.manual_seed(seed)
    network = _called("network", NETWORKS[config.network["name"]], config.network, data.input_shape, data.n_outputs)
    return network.to(config.device)


def build_trainer(config: SupervisedConfig, data: Data, network: nn.Module, seed: int) -> Trainer:
    """
    :param config: the run.
    :param data: its data set.
    :param network: what is trained.
    :param seed: of everything random; torch's global generator is set to it.
    :return: the trainer.
    """
    th.manual_seed(seed)
    named = _class_of("optimizer", th.optim, config.optimizer["name"], th.optim.Optimizer)
    optimizer = _called("optimizer", named, config.optimizer, network.parameters())
    make_scheduler = None
    if config.scheduler is not None:
        make_scheduler = partial(_scheduler, config.scheduler)
        make_scheduler(optimizer, 1000)  # what is wrong with its arguments shows now
        optimizer = _called("optimizer", named, config.optimizer, network.parameters())
    return Trainer(
        network,
        _objective(config, data),
        optimizer,
        data.train,
        data.validation,
        n_epochs=config.n_epochs,
        batch_size=config.batch_size,
        make_scheduler=make_scheduler,
        precision=config.precision,
        max_grad_norm=config.max_grad_norm,
        average=config.average,
        seed=seed,
        num_workers=config.num_workers,
    )


def _objective(config: SupervisedConfig, data: Data) -> Objective:
    objective = OBJECTIVES[data.kind]
    if not config.label_smoothing:
        return objective
    if objective.loss is not cross_entropy:
        raise PruningError(f"label_smoothing={config.label_smoothing} needs classes, and {config.data['name']} has none.")
    loss = partial(cross_entropy, label_smoothing=config.label_smoothing)
    return Objective(loss, objective.metric, objective.name)


def _scheduler(given: Mapping[str, Any], optimizer: th.optim.Optimizer, n_steps: int) -> LRScheduler:
    named = _class_of("scheduler", th.optim.lr_scheduler, given["name"], LRScheduler)
    arguments = ({WHOLE_RUN[given["name"]]: 1.0} if given["name"] in WHOLE_RUN else {}) | dict(given)
    for key in ("total_steps", "T_max", "total_iters", "step_size"):
        if key in arguments:
            arguments[key] = max(1, round(arguments[key] * n_steps))
    if "milestones" in arguments:
        arguments["milestones"] = [round(share * n_steps) for share in arguments["milestones"]]
    return _called("scheduler", named, arguments, optimizer)


def _class_of(key: str, module: Any, name: str, kind: type) -> Any:
    found = getattr(module, name, None)
    if not isinstance(found, type) or not issubclass(found, kind):
        raise PruningError(f"{key}.name={name!r} is no class of {module.__name__}.")
    return found


def _called(key: str, function: Any, given: Mapping[str, Any], *first: Any) -> Any:
    arguments = {name: value for name, value in given.items() if name != "name"}
    try:
        return function(*first, **arguments)
    except PruningError:
        raise
    except (TypeError, ValueError) as error:
        raise PruningError(f"{key}: {given['name']} does not take {arguments} ({error}).") from error
