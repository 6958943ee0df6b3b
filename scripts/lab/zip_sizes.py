"""
Sizes of saved agents, dense and cut to 95 %: zips with the optimizer's state, as ``model.save`` writes them.

Example::

    python scripts/lab/zip_sizes.py
"""

import os
import tempfile
from pathlib import Path
from typing import Any

# It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from stable_baselines3 import PPO, SAC

import rl_crop

AGENTS: dict[str, Any] = {"SAC": (SAC, {"learning_starts": 10}), "PPO": (PPO, {"n_steps": 64})}
ENVIRONMENT, WIDTHS, SPARSITY, N_STEPS = "HalfCheetah-v5", [256, 256], 0.95, 64


def main() -> None:
    """Train each agent for some steps, so that its optimizers have a state, and print a line of Markdown."""
    print("| agent | zip, dense | pruned |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, (algorithm, keywords) in AGENTS.items():
            model = algorithm("MlpPolicy", ENVIRONMENT, policy_kwargs={"net_arch": WIDTHS}, seed=0, device="cpu", **keywords)
            sizes = []
            for sparsity in (0.0, SPARSITY):
                if sparsity:
                    rl_crop.prune_policy(model, sparsity=sparsity, compensation="none")
                model.learn(N_STEPS)
                model.save(Path(folder) / "model.zip")
                sizes.append(f"{(Path(folder) / 'model.zip').stat().st_size / 1e3:,.0f} kB")
            print(f"| {name}, {'-'.join(map(str, WIDTHS))} | {sizes[0]} | {sizes[1]} |")


if __name__ == "__main__":
    main()
