"""Agents side by side, as text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rl_crop.core.report import table
from rl_crop.evaluation.statistics import bootstrap_interval, interquartile_mean


def summarize(returns: Sequence[float], n_params: Mapping[str, int], widths: Any) -> dict[str, Any]:
    """
    What a comparison says of one agent.

    :param returns: the returns of its episodes
    :param n_params: its parameters by network
    :param widths: its ``net_arch``
    :return: a row that JSON can hold
    """
    low, high = bootstrap_interval(returns)
    return {
        "mean": float(np.mean(returns)),
        "std": float(np.std(returns)),
        "iqm": interquartile_mean(returns),
        "iqm_low": low,
        "iqm_high": high,
        "n_episodes": len(returns),
        "n_params": dict(n_params),
        "widths": widths,
    }


def comparison_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """
    A table of agents.

    :param rows: a row of :func:`summarize` by the agent's name
    :return: text in columns
    """
    lines = []
    for name, row in rows.items():
        counts = [f"{row['n_params'][key]:,}" if key in row["n_params"] else "–" for key in ("actor", "critic", "total")]
        score = f"{row['mean']:.1f} ± {row['std']:.1f}"
        interval = f"{row['iqm']:.1f} [{row['iqm_low']:.1f}, {row['iqm_high']:.1f}]"
        lines.append([name, _widths(row["widths"]), *counts, score, interval])
    header = ["agent", "widths", "actor", "critic", "all parameters", "return", "IQM [95 % interval]"]
    return table(header, lines, n_left=2)


def _widths(widths: Any) -> str:
    heads = widths if isinstance(widths, Mapping) else {"": widths}
    return " ".join(f"{head} {'-'.join(map(str, layers))}".strip() for head, layers in heads.items())
