"""Agents side by side: their returns, with and without noise on what they observe, as text and as a picture."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from parts.noise import Spread, with_noise
from rl_crop.core.pruning.report import table
from rl_crop.evaluation.agents import SavedAgent, episode_returns
from rl_crop.evaluation.config import short_hash
from rl_crop.evaluation.networks import count_parameters, read_widths
from rl_crop.evaluation.statistics import mean_interval, worst_tenth
from rl_crop.files import write_atomically


def evaluate_agents(
    agents: Mapping[str, SavedAgent], n_episodes: int, n_envs: int, seed: int, levels: Sequence[float] = ()
) -> Iterable[tuple[str, dict[str, Any]]]:
    """
    Play episodes with deterministic actions, first as they are, then with noise on the observations.

    A unit of noise is the spread of an observation in the noiseless episodes of all agents of the same environment, so that
    they all meet the same noise. The environments' seeds are the same for every agent and level.

    :param agents: saved agents by name
    :param n_episodes: episodes of each agent at each level
    :param n_envs: environments that run side by side
    :param seed: the first environment's seed; it seeds the noise too
    :param levels: standard deviations of the noise, in units of the spread
    :return: the name and the row (:func:`summarize`) of each agent as far as they are known: without noise first, and again
        when ``noise`` is there: a summary by level, and ``noise_unit``. Observations without numbers to blur have neither.
    """
    n_envs = min(n_envs, n_episodes)
    spreads: dict[str, Spread] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, agent in agents.items():
        model = agent.load()
        spread = spreads.setdefault(_environment(agent), Spread(model.observation_space))
        env = agent.build_env(seed, n_envs, watch=spread.watch)
        returns, lengths = episode_returns(model, env, n_episodes)
        env.close()
        rows[name] = summarize(returns, count_parameters(model), read_widths(model)) | {"returns": returns, "lengths": lengths}
        yield name, rows[name]
    for name, agent in agents.items() if levels else ():
        units = spreads[_environment(agent)].units
        if not units:
            continue
        model, noise = agent.load(), {}
        for level in levels:
            env = agent.build_env(seed, n_envs, watch=partial(with_noise, units=units, level=level, seed=seed))
            returns, _ = episode_returns(model, env, n_episodes)
            env.close()
            noise[f"{level:g}"] = summarize_returns(returns) | {"returns": returns}
        yield name, rows[name] | {"noise": noise, "noise_unit": units[""] if set(units) == {""} else units}


def _environment(agent: SavedAgent) -> str:
    config = agent.config
    return short_hash([config.env, config.env_kwargs, config.env_wrapper, config.atari, config.frame_stack, config.noise_dims])


def summarize_returns(returns: Sequence[float]) -> dict[str, Any]:
    """
    :param returns: the returns of some episodes
    :return: their mean with a bootstrap interval of 95 %, standard deviation, median, and the mean of the worst tenth
    """
    low, high = mean_interval(returns)
    return {
        "mean": float(np.mean(returns)),
        "mean_low": low,
        "mean_high": high,
        "std": float(np.std(returns)),
        "median": float(np.median(returns)),
        "worst_tenth": worst_tenth(returns),
        "n_episodes": len(returns),
    }


def summarize(returns: Sequence[float], n_params: Mapping[str, int], widths: Any) -> dict[str, Any]:
    """
    What a comparison says of one agent.

    :param returns: the returns of its episodes
    :param n_params: its parameters by network
    :param widths: its ``net_arch``
    :return: a row that JSON can hold
    """
    return summarize_returns(returns) | {"n_params": dict(n_params), "widths": widths}


def comparison_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """
    A table of agents.

    :param rows: a row of :func:`summarize` by the agent's name
    :return: text in columns
    """
    lines = []
    for name, row in rows.items():
        counts = [f"{row['n_params'][key]:,}" if key in row["n_params"] else "–" for key in ("actor", "critic", "total")]
        scores = [_with_interval(row), f"{row['median']:.1f}", f"{row['worst_tenth']:.1f}"]
        lines.append([name, _widths(row["widths"]), *counts, *scores])
    header = ["agent", "widths", "actor", "critic", "all parameters", "mean return [95 %]", "median", "worst tenth"]
    return table(header, lines, n_left=2)


def robustness_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """
    A table of returns under noise.

    :param rows: a row of :func:`evaluate_agents` by the agent's name; at least one has ``noise``
    :return: text in columns
    """
    levels = next(list(row["noise"]) for row in rows.values() if "noise" in row)
    lines = []
    for name, row in rows.items():
        noise = row.get("noise", {})
        lines.append([name, _with_interval(row), *(_with_interval(noise[key]) if noise else "–" for key in levels)])
    return table(["agent", "no noise [95 %]", *(f"noise {level}" for level in levels)], lines)


def plot_robustness(path: str | Path, rows: Mapping[str, Mapping[str, Any]]) -> Path:
    """
    Draw mean returns with their intervals against the level of noise.

    :param path: the picture to write
    :param rows: a row of :func:`evaluate_agents` by the agent's name
    :return: the path written
    """
    from rl_crop.evaluation.figures.style import panels, settings

    with settings():
        figure, axes = panels(1, 1, (6.4, 4.0))
        for name, row in rows.items():
            points = {"0": row, **row.get("noise", {})}
            mean, low, high = (np.array([p[key] for p in points.values()]) for key in ("mean", "mean_low", "mean_high"))
            axes[0, 0].errorbar(
                [float(key) for key in points], mean, [mean - low, high - mean], marker="o", capsize=3, label=name
            )
        axes[0, 0].set_xlabel("standard deviation of the noise / spread of the observation")
        axes[0, 0].set_ylabel("mean return, 95 % interval")
        figure.legend(loc="outside lower center", fontsize=8, frameon=False)
        return write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=200))


def _with_interval(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:.1f} [{row['mean_low']:.1f}, {row['mean_high']:.1f}]"


def _widths(widths: Any) -> str:
    heads = widths if isinstance(widths, Mapping) else {"": widths}
    return " ".join(f"{head} {'-'.join(map(str, layers))}".strip() for head, layers in heads.items())
