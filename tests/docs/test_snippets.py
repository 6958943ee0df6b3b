"""What README and tutorials print runs as printed: only training is short, and networks of the tutorials are narrow."""

import re
from pathlib import Path

import gymnasium as gym
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

ROOT = Path(__file__).parents[2]
N_STEPS = 300


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path):
    """Training ends soon, and whatever is written lies in a folder of its own."""

    def shortened(kind):
        learn = kind.learn

        def short_learn(self, total_timesteps, *args, **keywords):
            self.learning_starts = N_STEPS - 20
            return learn(self, min(total_timesteps, N_STEPS), *args, **keywords)

        monkeypatch.setattr(kind, "learn", short_learn)

    shortened(OffPolicyAlgorithm)
    shortened(OnPolicyAlgorithm)
    monkeypatch.chdir(tmp_path)


def run(page, code):
    known = {}
    exec(compile(code, page, "exec"), known)
    return known


def test_a_trained_agent_of_the_readme(tmp_path):
    [code] = [block for block in blocks("README.md") if "prune_policy" in block]
    assert len([line for line in code.splitlines() if line and not line.startswith(("import", "from"))]) <= 5
    PPO("MlpPolicy", gym.make("CartPole-v1"), policy_kwargs={"net_arch": [8, 8]}, n_steps=64, seed=0).save("model.zip")
    model = run("README.md", code)["model"]
    assert model.policy.net_arch != [8, 8] and model.pruning_history
    observation = th.zeros(1, 4)
    found = PPO.load("small.zip").policy.get_distribution(observation).distribution.probs
    assert th.equal(found, model.policy.get_distribution(observation).distribution.probs)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_callback(page):
    [code] = [block for block in blocks(page) if "PruningCallback" in block]
    [event] = run(page, code)["model"].pruning_history
    assert event["n_params_after"] < event["n_params_before"]


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs" / "tutorials").glob("*.md")))
def test_a_tutorial(page):
    code = "\n".join(blocks(f"docs/tutorials/{page}")).replace("[256, 256]", "[8, 8]")
    known = run(page, code)
    assert known["report"].n_params_after < known["report"].n_params_before if "report" in known else known["model"]
