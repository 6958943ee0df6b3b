"""A study: tasks × arms × sparsities × seeds, spread out into cells, each of which is one run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rl_crop.core.errors import PruningError
from rl_crop.core.pruning.settings import check_names_any, check_sparsity
from rl_crop.core.recipes.recipe import Recipe
from rl_crop.core.recipes.registry import RECIPES
from rl_crop.evaluation.checks import check_seed
from rl_crop.evaluation.config import ConfigError, read_yaml, short_hash
from rl_crop.evaluation.tasks import TaskConfig, load_task

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_KINDS = {"config": "path", "overrides": "mapping", "pruning": "mapping", "arms": "list of names"}
_STUDY_KEYS = {"tasks", "arms", "recipes", "sparsities", "seeds"}
_TASK_KEYS = {"config", "overrides", "pruning", "arms", "arms_at", "sparsities", "seeds"}
# Parts of a recipe that have another name since: hashes go on with the first one, so that recorded results stay valid.
_FIRST_NAMES = {"strategy": "fate"}


@dataclass(frozen=True)
class Cell:
    """
    One run of a study.

    :param task: the task's name
    :param arm: the arm's name
    :param sparsity: the share of parameters cut; ``0`` in a dense cell, ``"auto"`` where the size is found
    :param seed: the seed
    :param config: what is run; for a cell with ``widths_of``, without the widths, which that cell finds
    :param widths_of: the cell whose final widths this one starts with
    """

    task: str
    arm: str
    sparsity: float | str | Mapping[str, float | str]
    seed: int
    config: TaskConfig
    widths_of: "Cell | None" = None

    @cached_property
    def hash(self) -> str:
        """
        Stands for everything that the result depends on, and for nothing else: not for where files lie, and not for the
        other cells of the study. A recipe counts by what it is made of.
        """
        identity: dict[str, Any] = {"config": self.config.canonical(), "seed": self.seed}
        if self.widths_of is not None:
            identity["widths_of"] = self.widths_of.hash
        if (name := (self.config.pruning or {}).get("recipe")) in RECIPES:
            parts, usual = RECIPES[name].described, Recipe().described
            identity["recipe"] = {_FIRST_NAMES.get(part, part): text for part, text in parts.items() if text != usual[part]}
        return short_hash(identity)

    @cached_property
    def config_hash(self) -> str:
        """Stands for what is run, whatever the seed."""
        return short_hash(self.config.canonical())

    @cached_property
    def name(self) -> str:
        """The name of the cell's files, without a suffix: readable, and unique."""
        by_network = self.sparsity if isinstance(self.sparsity, Mapping) else {"": self.sparsity}
        shares = {network: share if isinstance(share, str) else f"{share:g}" for network, share in by_network.items()}
        sparsity = "_".join(f"{network}{share}" for network, share in sorted(shares.items()))
        return f"{self.task}__{self.arm}__{sparsity}__seed{self.seed}__{self.hash}"


def load_study(path: str | Path) -> list[Cell]:
    """
    Read a study.

    The file holds ``tasks`` (name → ``config``, a file beside the study's of an agent or of a supervised run, with
    ``overrides`` for its keys and ``pruning`` for settings that its pruned arms share, which win over the arms' own), ``arms``
    (name → ``dense``, or ``pruning`` of the configuration, or ``widths_of: <arm>`` for a dense network with the widths that
    another arm ended with), ``recipes`` (``all``, or names: an arm of its name for each, unless ``arms`` has one),
    ``sparsities`` and ``seeds``; a task may have sparsities and seeds of its own, name the ``arms`` that it takes part with,
    and, where only some of these take part at a sparsity, name them by ``arms_at`` (sparsity → list).

    :param path: a YAML file
    :return: its cells, in the order of the file; a cell stands behind the cell that it depends on
    :raises ConfigError: names the key that is wrong
    """
    path = Path(path)
    study = read_yaml(path)
    _check_keys(study, _STUDY_KEYS, str(path))
    for key in ("tasks", "arms"):
        if not isinstance(study.get(key), Mapping):
            raise ConfigError(f"{path}: the key `{key}` must be a mapping from names to settings")
        for name in study[key]:
            _check_name(name, f"{path}: `{key}`")
    recipes = _recipe_arms(study.get("recipes") or [])
    all_arms = study["arms"] | recipes | study["arms"]  # in this order, and what is written out wins
    cells: list[Cell] = []
    for task, settings in study["tasks"].items():
        _check_keys(settings, _TASK_KEYS, f"{path}: tasks.{task}")
        if "config" not in settings:
            raise ConfigError(f"{path}: the key `tasks.{task}.config` is missing")
        sparsities, seeds = (settings.get(key, study.get(key)) for key in ("sparsities", "seeds"))
        if not sparsities or not seeds:
            raise ConfigError(f"{path}: `sparsities` and `seeds` are needed, for the study or for tasks.{task}")
        _check_sizes(sparsities, seeds, f"{path}: tasks.{task}")
        for key, kind in (("config", str), ("overrides", Mapping), ("pruning", Mapping), ("arms", list)):
            if settings.get(key) is not None and not isinstance(settings[key], kind):
                raise ConfigError(f"{path}: tasks.{task}.{key} must be a {_KINDS[key]}, got {settings[key]!r}")
        config = load_task(path.parent / settings["config"], settings.get("overrides")).with_pruning(None)
        arms = _pick_arms(all_arms, settings.get("arms"), f"tasks.{task}.arms")
        arms_at = _arms_at(settings.get("arms_at") or {}, arms, sparsities, f"tasks.{task}.arms_at")
        for seed in seeds:
            every = _cells_of_seed(task, config, arms, settings.get("pruning") or {}, sparsities, seed)
            cells += [cell for cell in every if cell.arm in arms_at.get(str(cell.sparsity), arms)]
    if not cells:
        raise ConfigError(f"{path} names no task, or no arm: there is nothing to run")
    return cells


def default_results(study: Path) -> Path:
    """:return: the folder of a study's results, for example ``runs/returns`` for ``study_returns.yaml``"""
    return Path("runs") / study.stem.removeprefix("study_")


def _check_name(name: Any, where: str) -> None:
    """Names are parts of the names of files."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{where} holds the name {name!r}: use letters, digits and _ . + - alone, a path is none")


def _check_sizes(sparsities: Any, seeds: Any, where: str) -> None:
    if not isinstance(sparsities, list) or not isinstance(seeds, list):
        raise ConfigError(f"{where}: `sparsities` and `seeds` must be lists, got {sparsities!r} and {seeds!r}")
    for sparsity in sparsities:
        try:
            check_names_any(sparsity)
            check_sparsity(sparsity)
        except PruningError as error:
            raise ConfigError(f"{where}: {error}") from None
    for seed in seeds:
        check_seed(f"{where}: the seed", seed)
    for name, values in (("sparsities", sparsities), ("seeds", seeds)):
        if len({str(value) for value in values}) < len(values):
            raise ConfigError(f"{where}: `{name}: {values}` names one twice")


def _recipe_arms(wanted: Any) -> dict[str, dict[str, str]]:
    names = list(RECIPES) if wanted == "all" else wanted
    if not isinstance(names, list) or not set(names) <= set(RECIPES):
        raise ConfigError(f"`recipes: {wanted}` is neither `all` nor a list of names in rl_crop.recipes")
    return {name: {"recipe": name} for name in names}


def _pick_arms(arms: Mapping[str, Any], wanted: list[str] | None, where: str) -> Mapping[str, Any]:
    if wanted is None:
        return arms
    for arm in wanted:
        if arm not in arms:
            raise ConfigError(f"`{where}` names `{arm}`, choose from {', '.join(arms)}")
    return {arm: settings for arm, settings in arms.items() if arm in wanted}


def _arms_at(
    wanted: Mapping[Any, list[str]], arms: Mapping[str, Any], sparsities: list[Any], where: str
) -> dict[str, set[str]]:
    if not isinstance(wanted, Mapping) or not all(isinstance(names, list) for names in wanted.values()):
        raise ConfigError(f"`{where}` must map sparsities to lists of arms, got {wanted!r}")
    picked: dict[str, set[str]] = {}
    for sparsity, names in wanted.items():
        if sparsity not in sparsities:
            raise ConfigError(f"`{where}` names the sparsity {sparsity!r}, choose from {', '.join(map(repr, sparsities))}")
        picked[str(sparsity)] = set(_pick_arms(arms, names, f"{where}.{sparsity}"))
        for arm in picked[str(sparsity)]:
            source = arms[arm].get("widths_of", arm) if isinstance(arms[arm], Mapping) else arm
            if source not in picked[str(sparsity)]:
                raise ConfigError(f"`{where}.{sparsity}` names `{arm}`, which needs the widths of `{source}`")
    return picked


def _cells_of_seed(
    task: str, config: TaskConfig, arms: Mapping[str, Any], shared: Mapping[str, Any], sparsities: list[Any], seed: int
) -> list[Cell]:
    cells: list[Cell] = []
    for arm, settings in arms.items():
        if settings == "dense":
            cells.append(Cell(task, arm, 0, seed, config))
        elif not isinstance(settings, Mapping):
            raise ConfigError(f"`arms.{arm}` is neither `dense` nor a mapping of settings")
        elif "widths_of" not in settings:
            pruning = {**settings, **shared}
            cells += [Cell(task, arm, s, seed, config.with_pruning({"sparsity": s} | pruning)) for s in sparsities]
    pruned = {(cell.arm, str(cell.sparsity)): cell for cell in cells if cell.config.pruning is not None}
    for arm, settings in arms.items():
        if isinstance(settings, Mapping) and "widths_of" in settings:
            _check_keys(settings, {"widths_of"}, f"arms.{arm}")
            for sparsity in sparsities:
                source = pruned.get((settings["widths_of"], str(sparsity)))
                if source is None:
                    raise ConfigError(f"`arms.{arm}.widths_of: {settings['widths_of']}` names no pruned arm")
                cells.append(Cell(task, arm, sparsity, seed, config, source))
    return cells


def select(cells: list[Cell], only: str) -> list[Cell]:
    """
    Pick cells.

    :param cells: the cells of a study
    :param only: ``key=value`` pairs joined by commas, of ``task``, ``arm``, ``sparsity`` and ``seed``; a key that is named
        twice accepts either value
    :return: the cells that match, in their order
    :raises ConfigError: for a pair that cannot be understood, or when nothing matches
    """
    wanted: dict[str, set[str]] = {}
    for pair in filter(None, only.split(",")):
        key, separator, value = pair.partition("=")
        if not separator or key not in ("task", "arm", "sparsity", "seed"):
            raise ConfigError(f"`{pair}` is no filter: expected task=…, arm=…, sparsity=… or seed=…")
        wanted.setdefault(key, set()).add(value)
    picked = [cell for cell in cells if all(str(getattr(cell, key)) in values for key, values in wanted.items())]
    if not picked:
        raise ConfigError(f"No cell of the study matches `{only}`")
    return picked


def _check_keys(data: Any, known: set[str], where: str) -> None:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a mapping, got {data!r}")
    for key in data:
        if key not in known:
            raise ConfigError(f"{where}: the key `{key}` is not known, choose from {', '.join(sorted(known))}")
