"""What a supervised run is: one YAML file a task; data, network, optimizer and schedule by name, and ``pruning:``."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lab.supervised.datasets import DATASETS
from lab.supervised.networks import NETWORKS
from rl_crop.core.errors import PruningError
from rl_crop.supervised.averaging import check_average

Config = TypeVar("Config", bound="SupervisedConfig")


@dataclass(frozen=True)
class SupervisedConfig:
    """
    One run, without its seed. What has a name is a mapping: its ``name``, and keyword arguments.

    :param data: a data set of :data:`~lab.supervised.datasets.DATASETS`.
    :param network: a network of :data:`~lab.supervised.networks.NETWORKS`.
    :param n_epochs: passes through the training set.
    :param batch_size: pairs in a batch.
    :param optimizer: a class of ``torch.optim``.
    :param scheduler: a class of ``torch.optim.lr_scheduler``, stepped after every optimizer step; arguments that are times
        (``total_steps``, ``T_max``, ``total_iters``, ``step_size``, ``milestones``) are shares of the run, the first three
        the whole run by default. ``None`` keeps the learning rate.
    :param label_smoothing: share of the target that is spread over all classes.
    :param max_grad_norm: what the norm of the gradient is clipped to.
    :param average: what is measured is an exponential moving average of the weights: the share of the old average in the new
        one after an optimizer step, in [0, 1); 0 measures the weights as they are.
    :param precision: ``"float32"``, or ``"bfloat16"`` for mixed precision.
    :param num_workers: processes that read ahead.
    :param device: ``"cpu"`` or a device of torch.
    :param pruning: see :func:`~rl_crop.supervised.pruning.chosen_recipe`; ``None`` trains densely.
    :raises PruningError: names the key that is wrong.
    """

    data: dict[str, Any]
    network: dict[str, Any]
    n_epochs: int
    batch_size: int
    optimizer: dict[str, Any] = field(default_factory=lambda: {"name": "Adam"})
    scheduler: dict[str, Any] | None = None
    label_smoothing: float = 0.0
    max_grad_norm: float | None = None
    average: float = 0.0
    precision: str = "float32"
    num_workers: int = 0
    device: str = "cpu"
    pruning: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for key, known in {"data": list(DATASETS), "network": list(NETWORKS)}.items():
            name = _named(key, getattr(self, key)).get("name")
            if name not in known:
                raise PruningError(f"{key}.name={name!r} is not one of {sorted(known)}.")
        for key in ("optimizer", "scheduler"):
            if key == "optimizer" or getattr(self, key) is not None:
                _named(key, getattr(self, key))
        for key, least in {"n_epochs": 1, "batch_size": 1, "num_workers": 0}.items():
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise PruningError(f"{key}={value!r} must be an integer of at least {least}.")
        if self.pruning is not None and not isinstance(self.pruning, Mapping):
            raise PruningError(f"pruning={self.pruning!r} must be a mapping, or null.")
        for key, share in {"label_smoothing": self.label_smoothing, "max_grad_norm": self.max_grad_norm or 0.0}.items():
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < math.inf:
                raise PruningError(f"{key}={share!r} must be a number of at least 0.")
        check_average(self.average)

    @classmethod
    def from_dict(cls: type[Config], data: Mapping[str, Any]) -> Config:
        """
        :param data: the keys of a file.
        :return: the configuration.
        :raises PruningError: names the key that is missing, unknown or wrong.
        """
        fields = {f.name: f for f in dataclasses.fields(SupervisedConfig)}
        unknown = sorted(set(data) - set(fields))
        if unknown:
            raise PruningError(f"Unknown keys {unknown}; a supervised run has {list(fields)}.")
        missing = [key for key in ("data", "network", "n_epochs", "batch_size") if data.get(key) is None]
        if missing:
            raise PruningError(f"The keys {missing} are missing.")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """:return: a mapping that :meth:`from_dict` reads back, every key spelled out."""
        return dataclasses.asdict(self)

    def canonical(self) -> dict[str, Any]:
        """:return: the same without what equals its default, so that two spellings of one run are one run."""
        default = SupervisedConfig(self.data, self.network, self.n_epochs, self.batch_size).to_dict()
        needed = ("data", "network", "n_epochs", "batch_size")
        return {key: value for key, value in self.to_dict().items() if key in needed or value != default[key]}

    def with_pruning(self: Config, pruning: Mapping[str, Any] | None) -> Config:
        """:return: the same run with other pruning settings; ``None`` trains densely."""
        return dataclasses.replace(self, pruning=None if pruning is None else dict(pruning))


def _named(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise PruningError(f"{key}={value!r} must be a mapping with a name, such as {{name: ...}}, and arguments.")
    return value
