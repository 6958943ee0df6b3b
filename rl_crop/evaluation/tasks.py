"""What the cells of a study run: the training of an agent, or another task, whose configuration names its class."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from rl_crop.core.errors import PruningError
from rl_crop.evaluation.config import ConfigError, RunConfig, load_config, merge, read_yaml


class OtherTask(Protocol):
    """
    A task that is no training of an agent: a configuration of another kind, made by a class method ``from_dict`` out of the
    keys of its file. Its class is found by import, here and in every process that runs a cell.
    """

    pruning: dict[str, Any] | None
    """What the file says about pruning."""

    def canonical(self) -> dict[str, Any]:
        """:return: everything that the result depends on beside the seed, without what equals its default"""
        ...

    def with_pruning(self, pruning: Mapping[str, Any] | None) -> "OtherTask":
        """:return: the same task with other pruning settings; ``None`` trains densely"""
        ...

    def run(self, seed: int, widths: Any = None) -> dict[str, Any]:
        """
        Train and measure.

        :param seed: of everything random
        :param widths: of a smaller network to train instead, as ``widths`` of another result
        :return: the report, see :func:`run_task`
        """
        ...


TaskConfig: TypeAlias = RunConfig | OtherTask


def load_task(path: str | Path, overrides: Mapping[str, Any] | None = None) -> TaskConfig:
    """
    Read a configuration of an agent's run, or with the key ``class`` (as ``package.module.Name``) of another task.

    :param path: a YAML file
    :param overrides: keys that replace those of the file; mappings are merged key by key
    :return: the configuration
    :raises ConfigError: names the file and the key
    """
    data = merge(read_yaml(path), overrides or {})
    if "class" not in data:
        return load_config(path, overrides)
    named = data.pop("class")
    module, _, name = str(named).rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path}: the class `{named}` cannot be imported ({error})") from error
    try:
        return found.from_dict(data)
    except PruningError as error:
        raise ConfigError(f"{path}: {error}") from None


def check_task(config: TaskConfig) -> None:
    """
    Refuse what a run would refuse, before anything runs.

    :raises ConfigError: names the key that is wrong
    """
    if not isinstance(config, RunConfig):
        return
    from rl_crop.evaluation.training import Training

    try:
        Training(config)
    except PruningError as error:
        raise ConfigError(f"`pruning` of {config.algo} on {config.env}: {error}") from None


def run_task(config: TaskConfig, directory: Path, seed: int, widths: Any = None, plot: bool = False) -> dict[str, Any]:
    """
    Train and measure.

    :param config: what to run
    :param directory: of what an agent's run leaves; other tasks leave nothing
    :param seed: its seed
    :param widths: of a smaller network to train instead, as ``widths`` of another result
    :param plot: whether to draw the learning curve of an agent
    :return: the report. Of every kind ``final.mean`` is the measure, which is better when higher, ``metric`` its name where it
        is no return, and ``seconds`` has the keys ``learn`` and ``learn_cpu``, what training and pruning took, ``prune`` and
        ``prune_cpu``, the share of the latter, and ``learn_with_evaluation``.
    """
    if not isinstance(config, RunConfig):
        return config.run(seed, widths)

    from rl_crop.evaluation.run import run

    config = config if widths is None else config.with_widths(widths)
    return run(config, directory, seed, plot=plot, print_cuts=False) | {"config": config.to_dict()}
