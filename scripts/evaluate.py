"""Compare the returns of saved agents: any number of run directories or zips.

Examples::

    python scripts/evaluate.py runs/ppo_cartpole_dense_seed0 runs/ppo_cartpole_span_crop_0.95_seed0
    python scripts/evaluate.py runs/a/model.zip small.zip --n-episodes 200 --out comparison.json
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tyro
from tqdm import tqdm

from rl_crop.evaluation import ConfigError, SavedAgent, episode_returns
from rl_crop.evaluation.compare import comparison_table, summarize
from rl_crop.evaluation.networks import count_parameters, read_widths
from rl_crop.files import write_json


@dataclass(frozen=True)
class Args:
    agents: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories or zips."""
    n_episodes: int = 100
    """Episodes of each agent, with deterministic actions."""
    n_envs: int = 20
    """Environments that run side by side."""
    seed: int = 12345
    """The first environment's seed, the same for all agents."""
    config: Path | None = None
    """The configuration of the agents, where it does not lie beside them."""
    out: Path | None = None
    """A JSON file for the figures, with the returns of all episodes."""


def main(args: Args) -> None:
    """
    Evaluate and print a table.

    :param args: the arguments
    """
    if not args.agents:
        raise ConfigError("Name at least one run directory or zip")
    agents = {str(path): SavedAgent.find(path, args.config) for path in args.agents}
    rows, returns = {}, {}
    for name, agent in tqdm(agents.items(), unit="agent", leave=False):
        model = agent.load()
        env = agent.build_env(args.seed, min(args.n_envs, args.n_episodes))
        returns[name], _ = episode_returns(model, env, args.n_episodes)
        env.close()
        rows[name] = summarize(returns[name], count_parameters(model), read_widths(model))
    print(comparison_table(rows))
    envs = sorted({agent.config.env for agent in agents.values()})
    print(f"\n{args.n_episodes} deterministic episodes on {', '.join(envs)}; interval of the IQM over episodes of one trained")
    print("agent each: it says nothing about how other training seeds would turn out.")
    if len(envs) > 1:
        print("These agents were trained on different environments: their returns do not compare.")
    if args.out:
        write_json(args.out, {name: row | {"returns": returns[name]} for name, row in rows.items()})
        print(f"The figures are in {args.out}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except ConfigError as error:
        sys.exit(f"Error: {error}")
