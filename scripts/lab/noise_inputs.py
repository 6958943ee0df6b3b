"""Does a criterion cut what listens to noise? Trains an agent on observations most of whose dimensions are pure noise, and
looks at which units of its first layers each criterion would keep.

Training is dense and ends where a cut would come. Of a unit, the share of noise is that part of its squared input weights that
lies on noise dimensions; printed is the mean over the units that are kept, and how many units are kept.

Example::

    python scripts/lab/noise_inputs.py configs/ppo_tracking.yaml --noise-dims 0.9 --n-timesteps 50000
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import numpy as np
import tyro

import rl_crop
from rl_crop.evaluation import load_config
from rl_crop.evaluation.building import build_env, build_model
from rl_crop.files import write_json

CRITERIA = ("span_crop", "crop", "magnitude", "span", "random")
RANDOM_DRAWS = 20


@dataclass(frozen=True)
class Args:
    config: tyro.conf.Positional[Path]
    """The task: a YAML file of `configs/` for an on-policy agent whose networks read the observation itself."""
    noise_dims: float = 0.9
    """Share of the observation's dimensions that is noise."""
    n_timesteps: int = 50_000
    """Steps of training before the units are looked at."""
    sparsities: tuple[float, ...] = (0.8, 0.95)
    """Shares of the parameters to cut."""
    seed: int = 0
    """Seeds the agent and its environments."""
    out: Path | None = None
    """A JSON file for the figures."""


def noise_shares(model: Any, real: np.ndarray) -> dict[str, np.ndarray]:
    """
    :param model: an on-policy agent with an MLP policy
    :param real: positions of the real dimensions
    :return: by first layer, the share of noise of each of its units
    """
    shares = {}
    for network in ("policy_net", "value_net"):
        squares = getattr(model.policy.mlp_extractor, network)[0].weight.detach().numpy() ** 2
        shares[f"mlp_extractor.{network}.0"] = 1 - squares[:, real].sum(1) / squares.sum(1)
    return shares


def kept(model: Any, criterion: str, sparsity: float, shares: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """
    :param model: the agent
    :param criterion: how units are scored
    :param sparsity: share of the parameters to cut
    :param shares: what :func:`noise_shares` returns
    :param seed: the plan's
    :return: by first layer, the units kept and the mean of their shares
    """
    plan = rl_crop.plan_policy_pruning(model, sparsity=sparsity, criterion=criterion, compensation="none", seed=seed)
    return {
        layer: {"units": len(plan.keep[layer]), "noise": float(share[plan.keep[layer]].mean())}
        for layer, share in shares.items()
    }


def main(args: Args) -> None:
    """
    Train, then look at every criterion.

    :param args: the arguments
    """
    config = load_config(args.config, {"noise_dims": args.noise_dims, "n_timesteps": args.n_timesteps}).with_pruning(None)
    env = build_env(config, args.seed)
    real = env.get_attr("real")[0]
    model = build_model(config, env, args.seed)
    print(
        "share of noise in the weights, at first: ",
        {k: round(float(v.mean()), 3) for k, v in noise_shares(model, real).items()},
    )
    model.learn(args.n_timesteps)
    shares = noise_shares(model, real)
    print("share of noise in the weights, trained:  ", {k: round(float(v.mean()), 3) for k, v in shares.items()})
    rows: list[dict[str, Any]] = []
    for sparsity in args.sparsities:
        for criterion in CRITERIA:
            draws = RANDOM_DRAWS if criterion == "random" else 1
            for draw in range(draws):
                found = kept(model, criterion, sparsity, shares, args.seed + draw)
                rows.append({"sparsity": sparsity, "criterion": criterion, "draw": draw, "kept": found})
            same = [row["kept"] for row in rows[-draws:]]
            cells = [
                f"{layer.split('.')[1]}: {np.mean([k[layer]['units'] for k in same]):.0f} units, "
                f"noise {np.mean([k[layer]['noise'] for k in same]):.3f} ± {np.std([k[layer]['noise'] for k in same]):.3f}"
                for layer in shares
            ]
            print(f"{sparsity:.0%} {criterion:10} " + "   ".join(cells), flush=True)
    if args.out is not None:
        means = {layer: float(share.mean()) for layer, share in shares.items()}
        write_json(args.out, {"config": config.canonical(), "seed": args.seed, "before": means, "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
