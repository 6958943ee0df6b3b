"""docs/support.md says what the table of tested agents says."""

import inspect
import re
from pathlib import Path

from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.preprocessing import is_image_space

from rl_crop.sb3.adapters import describe
from rl_crop.sb3.networks import has_parameters
from tests.zoo.agents import AGENTS, VECTORS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "support.md").read_text()
CLASSES = (PPO, A2C, DQN, SAC, TD3, DDPG, TQC, QRDQN, TRPO, MaskablePPO, CrossQ, RecurrentPPO, ARS)
ALGORITHMS = {kind.__name__: kind for kind in CLASSES}
NAMES = {"Mlp": "MlpPolicy", "Cnn": "CnnPolicy", "MultiInput": "MultiInputPolicy"}
KINDS = [*NAMES.values(), "gSDE", "shared extractor", "separate extractors"]
ABSENT = "–"  # noqa: RUF001


def table(title):
    """Rows of the table under a heading, by their first column."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    head, _, *body = rows
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}


def pruned_in_tests():
    """Every pair of an algorithm and a kind of policy that some agent of the table has."""
    found = set()
    for make in AGENTS.values():
        model = make()
        modules = describe(model.policy).modules
        extractors = [module for module in describe(model.policy).extractors if has_parameters(module)]
        observed = model.observation_space
        kinds = [
            "MultiInputPolicy" if hasattr(observed, "spaces") else "CnnPolicy" if is_image_space(observed) else "MlpPolicy"
        ]
        kinds += ["gSDE"] if getattr(model, "use_sde", False) else []
        if extractors and "actor" in modules:
            kinds.append("shared extractor" if "features" in modules else "separate extractors")
        found |= {(type(model).__name__, kind) for kind in kinds}
    return found


def offered(algorithm, kind):
    """Whether Stable-Baselines3 has it."""
    if kind == "gSDE":
        return "use_sde" in inspect.signature(algorithm).parameters
    if kind in NAMES.values():
        return any(re.sub("Lstm", "", alias) == kind for alias in algorithm.policy_aliases)
    return algorithm not in (DQN, QRDQN, ARS)  # there is one network, or no choice of an extractor


def test_the_matrix_is_what_is_tested_and_all_that_there_is():
    matrix, found = table("Algorithms"), pruned_in_tests()
    assert list(matrix) == list(ALGORITHMS)
    for name, row in matrix.items():
        assert list(row) == KINDS
        for kind, cell in row.items():
            assert cell == ("yes" if (name, kind) in found else ABSENT), (name, kind)
            assert ((name, kind) in found) == offered(ALGORITHMS[name], kind), (name, kind)


def test_the_readme_has_the_same_matrix():
    matrix = PAGE.split("## Algorithms\n")[1].strip().split("\n\n")[0]
    assert matrix in (ROOT / "README.md").read_text()


def test_every_agent_is_named_and_every_named_agent_is_tested():
    named = {name for row in table("What else is tested").values() for name in re.findall(r"`(\w+)`", row["agents"])}
    assert named == set(AGENTS)


def test_every_algorithm_has_agents_that_load_in_stock_processes():
    assert {type(make()).__name__ for make in VECTORS.values()} == set(ALGORITHMS)
