"""What the cells of a study run: the training of an agent, or a supervised one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from rl_crop.core.errors import PruningError
from rl_crop.evaluation.config import ConfigError, RunConfig, load_config, merge, read_yaml
from rl_crop.supervised.config import SupervisedConfig

TaskConfig: TypeAlias = RunConfig | SupervisedConfig


def load_task(path: str | Path, overrides: Mapping[str, Any] | None = None) -> TaskConfig:
    """
    Read a configuration of either kind; one with the key ``data`` is supervised.

    :param path: a YAML file
    :param overrides: keys that replace those of the file; mappings are merged key by key
    :return: the configuration
    :raises ConfigError: names the file and the key
    """
    data = merge(read_yaml(path), overrides or {})
    if "data" not in data:
        return load_config(path, overrides)
    try:
        return SupervisedConfig.from_dict(data)
    except PruningError as error:
        raise ConfigError(f"{path}: {error}") from None


def run_task(config: TaskConfig, directory: Path, seed: int, widths: Any = None, plot: bool = False) -> dict[str, Any]:
    """
    Train and measure.

    :param config: what to run
    :param directory: of what an agent's run leaves; a supervised run leaves nothing
    :param seed: its seed
    :param widths: of a smaller network to train instead, as ``widths`` of another result
    :param plot: whether to draw the learning curve of an agent
    :return: the report. Of either kind ``final.mean`` is the measure, which is better when higher, and ``seconds.learn`` what
        training and pruning took.
    """
    if isinstance(config, SupervisedConfig):
        from rl_crop.supervised.run import run as run_supervised

        result = run_supervised(config, seed, widths=widths)
        seconds = result["seconds"]
        learn, learn_cpu = seconds["train"] + seconds["prune"], seconds["train_cpu"] + seconds["prune_cpu"]
        seconds = seconds | {"learn": learn, "learn_cpu": learn_cpu, "learn_with_evaluation": learn}
        return result | {"final": {"mean": result["test"]}, "seconds": seconds}

    from rl_crop.evaluation.run import run

    config = config if widths is None else config.with_widths(widths)
    return run(config, directory, seed, plot=plot, print_cuts=False) | {"config": config.to_dict()}
