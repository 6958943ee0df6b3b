"""Compare saved agents (run directories or zips): returns, bad episodes, and returns under noisy observations.

Examples::

    python scripts/evaluate.py runs/ppo_cartpole_dense_seed0 runs/ppo_cartpole_span_crop_0.95_seed0
    python scripts/evaluate.py runs/a/model.zip small.zip --n-episodes 200 --json comparison.json --picture noise.png
    python scripts/evaluate.py small.zip --noise
"""

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")


from command_line import tqdm, tyro
from parts.compare import comparison_table, evaluate_agents, plot_robustness, robustness_table
from rl_crop.evaluation import ConfigError, SavedAgent
from rl_crop.evaluation.checks import check_seed
from rl_crop.evaluation.command import command
from rl_crop.files import write_json

PICTURES = (".png", ".svg", ".pdf", ".jpg")
"""How names of pictures end."""


@dataclass(frozen=True)
class Args:
    agents: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories or zips."""
    n_episodes: int = 100
    """Episodes of each agent at each level of noise, with deterministic actions."""
    n_envs: int = 20
    """Environments that run side by side."""
    seed: int = 12345
    """The first environment's seed and that of the noise, the same for all agents."""
    noise: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2)
    """Standard deviations of Gaussian noise on the observations, in units of each dimension's spread in the noiseless
    episodes, or of the scale of pixels (255) in images. `--noise` alone leaves noise out, which takes a fifth of the time."""
    config: Path | None = None
    """The configuration of the agents, where it does not lie beside them."""
    json: Path | None = None
    """A JSON file for the figures, with the returns of all episodes."""
    picture: Path | None = None
    """A picture of the returns against the noise, for example `noise.png`."""


def main(args: Args) -> None:
    """
    Evaluate and print tables.

    :param args: the arguments
    """
    if not args.agents:
        raise ConfigError("Name at least one run directory or zip")
    if args.n_episodes < 1 or args.n_envs < 1 or not all(0 < level < math.inf for level in args.noise):
        raise ConfigError("--n-episodes and --n-envs must be 1 or more, and --noise numbers above 0")
    if len(set(args.agents)) < len(args.agents) or len(set(args.noise)) < len(args.noise):
        raise ConfigError("An agent, or a level of --noise, is named twice: name each once")
    check_seed("--seed", args.seed)
    if args.picture is not None and args.picture.suffix not in PICTURES:
        raise ConfigError(f"--picture {args.picture} must end in {', '.join(PICTURES)}")
    if args.picture is not None and not args.noise:
        raise ConfigError("--picture shows returns against noise: leave out the empty --noise")
    agents = {str(path): SavedAgent.find(path, args.config) for path in args.agents}
    rows = {}
    passes = len(agents) * (1 + bool(args.noise))
    for name, row in tqdm(
        evaluate_agents(agents, args.n_episodes, args.n_envs, args.seed, args.noise), total=passes, leave=False
    ):
        rows[name] = row
    print(comparison_table(rows))
    envs = sorted({agent.config.env for agent in agents.values()})
    print(f"\n{args.n_episodes} deterministic episodes on {', '.join(envs)}; worst tenth: the mean of the lowest 10 %.")
    print("Intervals are over episodes of one trained agent each: they say nothing about other training seeds.")
    if len(envs) > 1:
        print("These agents were trained on different environments: their returns do not compare.")
    noisy = [name for name, row in rows.items() if "noise" in row]
    if noisy:
        print(f"\n{robustness_table(rows)}")
        print(
            "\nMean returns with noise on the observations: its standard deviation in units of each dimension's spread in the"
        )
        print("noiseless episodes of all agents of an environment (images: of 255); the same noise for every agent.")
    if args.noise and len(noisy) < len(rows):
        print("–: these observations hold no numbers that noise could be added to.")
    if args.json:
        write_json(args.json, rows)
        print(f"The figures are in {args.json}")
    if args.picture:
        print(f"The picture is {plot_robustness(args.picture, rows)}")


if __name__ == "__main__":
    sys.exit(command(main, Args, __doc__ or ""))
