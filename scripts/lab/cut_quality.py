"""What a cut does at once to the action and value functions of half-trained agents, for every way of cutting.

Trains each agent densely for half of its run (once: it is kept in `--runs`), cuts copies of it, and compares their functions
with the dense ones on data that was not scored. Writes one JSON file a task and a Markdown table.

Example::

    python scripts/lab/cut_quality.py configs/ppo_lunarlander.yaml configs/sac_halfcheetah.yaml
    python scripts/lab/cut_quality.py configs/ppo_tracking.yaml --trained 0.25 --compensations least_squares
    python scripts/lab/cut_quality.py --compare docs/results/cut_quality/repaired
"""

import copy
import itertools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import numpy as np
import torch as th
import tyro
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy

from lab.partly_trained import partly_trained
from rl_crop import prune_policy
from rl_crop.evaluation import load_config
from rl_crop.evaluation.building import build_env
from rl_crop.files import read_json, write_json, write_text
from rl_crop.sb3.data import BATCH_SIZE, N_BATCHES, collect, rollout_samples, split
from rl_crop.sb3.networks import entropy_coefficient
from rl_crop.supervised.objectives import explained_variance


def outputs(policy: BasePolicy, observations: Any, actions: Any) -> dict[str, th.Tensor]:
    """
    What the networks of a policy compute.

    :param policy: of PPO, A2C or SAC
    :param observations: a batch
    :param actions: as the policy outputs them, for critics that take them
    :return: ``action``: means before squashing, or log-probabilities where actions are discrete; ``value``: values, or those
        of every critic
    """
    with th.no_grad():
        if isinstance(policy, ActorCriticPolicy):
            distribution: Any = policy.get_distribution(observations)
            discrete = isinstance(policy.action_space, spaces.Discrete)
            action = distribution.distribution.logits if discrete else distribution.distribution.mean
            value = policy.predict_values(observations)
        else:
            action = policy.actor.get_action_dist_params(observations)[0]  # type: ignore[operator, union-attr]
            value = th.cat(policy.critic(observations, actions), dim=1)  # type: ignore[operator]
    return {"action": action.double(), "value": value.double()}


def measure(
    model: BaseAlgorithm,
    sparsities: Sequence[float],
    ways: Sequence[str],
    compensations: Sequence[str],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """
    Cut copies of an agent in every way asked for and compare them with it on other data.

    :param model: a trained agent with its environment
    :param sparsities: of actor and critic
    :param ways: criterion and scope, as ``"crop:network"``
    :param compensations: by name
    :param seed: of the data
    :return: one row a combination: ``action`` and ``value`` are explained variances
    """
    scored, held_out = two_halves(model, N_BATCHES * BATCH_SIZE, seed)
    observations = th.cat([batch.observations for batch in held_out])
    actions = th.cat([batch.actions for batch in held_out])
    dense = outputs(model.policy, observations, actions)
    coefficients = {"gamma": model.gamma, "ent_coef": entropy_coefficient(model)}  # type: ignore[attr-defined]
    rows = []
    for sparsity in sparsities:
        for way in ways:
            for compensation in compensations:
                policy = copy.deepcopy(model.policy)
                criterion, scope = way.split(":")
                settings = {"criterion": criterion, "scope": scope, "compensation": compensation}
                report = prune_policy(policy, sparsity, batches=scored, **settings, **coefficients)
                cut = outputs(policy, observations, actions)
                rows.append(
                    {
                        "sparsity": sparsity,
                        **settings,
                        **{name: float(explained_variance(cut[name], dense[name])) for name in dense},
                        "widths": {name: after for name, (_, after) in report.widths.items()},
                        "seconds": report.seconds,
                    }
                )
    return rows


def two_halves(model: BaseAlgorithm, n_samples: int, seed: int) -> tuple[list[Any], list[Any]]:
    """
    Disjoint data of an agent: new rollouts, or different transitions of its replay buffer.

    :param model: the agent
    :param n_samples: transitions in each half
    :param seed: of the choice
    :return: two lists of batches
    """
    if isinstance(model, OnPolicyAlgorithm):
        samples = rollout_samples(collect(model, 2 * n_samples, seed), 2 * n_samples, seed)
        batches = split(samples, BATCH_SIZE)
    else:
        buffer: Any = model.replay_buffer  # type: ignore[attr-defined]
        index = np.random.default_rng(seed).permutation(buffer.size())[: 2 * n_samples]
        env = model.get_vec_normalize_env()
        batches = [buffer._get_samples(part, env) for part in np.split(index, 2 * n_samples // BATCH_SIZE)]
    return batches[: len(batches) // 2], batches[len(batches) // 2 :]


SPARSITIES = (0.9, 0.95, 0.99)
WAYS = (
    "crop:network", "span_crop:network", "span_crop:layer", "span:network", "span:layer", "magnitude:network",
    "magnitude:layer", "random:layer", "crop:layer",
    "obs:network", "obs:layer", "obs_crop:network", "obs_crop:layer",
)  # fmt: skip
COMPENSATIONS = ("none", "bias", "least_squares", "distill")


@dataclass(frozen=True)
class Args:
    configs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """The tasks: YAML files of `configs/`."""
    seed: int = 0
    """Seeds the agents and the data."""
    trained: float = 0.5
    """Share of the run that the agents are trained for."""
    runs: Path = Path("runs/cut_quality")
    """Where the trained agents are kept."""
    sparsities: tuple[float, ...] = SPARSITIES
    """Of actor and critic."""
    ways: tuple[str, ...] = WAYS
    """Criterion and scope, as `crop:network`."""
    compensations: tuple[str, ...] = COMPENSATIONS
    """By name."""
    out: Path = Path("runs/cut_quality")
    """Where the results go."""
    compare: Path | None = None
    """A folder of results: nothing is measured, and `obs` and `obs_crop` are compared with what does not know the repair."""


RIVALS = ("crop", "span_crop", "magnitude", "span")
KNOWING = ("obs:network", "obs:layer", "obs_crop:network", "obs_crop:layer")


def comparison(results: Sequence[dict[str, Any]]) -> str:
    """
    :param results: of several tasks
    :return: a table of unexplained variance after the repaired cut, as a share of that of the best rival in its better scope;
        one line a task, function and sparsity, and the median and the largest share over 95 and 99 %
    """
    lines = ["| task, trained | function | sparsity | best rival | " + " | ".join(f"`{way}`" for way in KNOWING) + " |"]
    lines.append("|---|---|---|---|" + "---|" * len(KNOWING))
    shares: dict[str, list[float]] = {way: [] for way in KNOWING}
    for result in results:
        for function, sparsity in itertools.product(("action", "value"), SPARSITIES):
            rows = [row for row in result["rows"] if row["sparsity"] == sparsity and row["compensation"] == "least_squares"]
            left = {f"{row['criterion']}:{row['scope']}": 1.0 - row[function] for row in rows}
            best = min((way for way in left if way.split(":")[0] in RIVALS), key=lambda way: left[way])
            own = {way: left[way] / left[best] for way in KNOWING}
            if sparsity >= 0.95:
                for way, share in own.items():
                    shares[way].append(share)
            name = f"{result['task']}, {result['trained']:.0%}"
            cells = " | ".join(f"{share:.2f}" for share in own.values())
            lines.append(f"| {name} | {function} | {sparsity:.0%} | `{best}` {left[best]:.2g} | {cells} |")
    for word, of in (("median", np.median), ("largest", np.max)):
        cells = " | ".join(f"**{of(shares[way]):.2f}**" for way in KNOWING)
        lines.append(f"| {word} at 95 and 99 % | | | | {cells} |")
    return "\n".join(lines)


def markdown(rows: list[dict[str, Any]], function: str) -> str:
    """
    :param rows: of one task
    :param function: ``action`` or ``value``
    :return: a table of unexplained variance: one line a sparsity, criterion and scope, one column a compensation
    """
    names = list(dict.fromkeys(row["compensation"] for row in rows))
    cells: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        line = f"{row['sparsity']:.0%}", row["criterion"], row["scope"]
        cells.setdefault(line, {})[row["compensation"]] = 1.0 - row[function]
    lines = ["| sparsity | criterion | scope | " + " | ".join(names) + " |", "|---|---|---|" + "---|" * len(names)]
    lines += [" | ".join(["", *line, *(f"{own[name]:.2g}" for name in names), ""]).strip() for line, own in cells.items()]
    return "\n".join(lines)


def main(args: Args) -> None:
    """Measure every task and write its results, or compare what is written."""
    if args.compare is not None:
        print(comparison([read_json(path) for path in sorted(args.compare.glob("*.json"))]))
    for path in args.configs:
        config = load_config(path)
        env = build_env(config, args.seed)
        model, _ = partly_trained(config, env, path.stem, args.seed, args.trained, args.runs)
        rows = measure(model, args.sparsities, args.ways, args.compensations, args.seed)
        write_json(
            args.out / f"{path.stem}.json", {"task": path.stem, "seed": args.seed, "trained": args.trained, "rows": rows}
        )
        tables = "\n\n".join(f"Unexplained variance of {name}s:\n\n{markdown(rows, name)}" for name in ("action", "value"))
        write_text(args.out / f"{path.stem}.md", f"# {path.stem}, trained for {args.trained:.0%} of its run\n\n{tables}\n")
        print(f"\n{path.stem}\n\n{tables}\n")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
