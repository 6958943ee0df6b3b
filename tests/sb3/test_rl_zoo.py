"""RL Zoo, unchanged, trains pruned agents from its hyperparameter files: the commands of docs/rl_zoo.md, on small networks."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rl_zoo3.utils import get_callback_list
from stable_baselines3 import PPO, SAC

import rl_crop

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "rl_zoo").glob("*.yml"))
SHORT = {
    "ppo": "-n 1536 --eval-freq 512 --eval-episodes 1 --save-freq 512 --num-threads 1",
    "sac": "-n 300 --eval-freq 120 --eval-episodes 1 --save-freq -1 --num-threads 1",
}
SMALL = ["policy_kwargs:dict(net_arch=[16, 16])", "normalize:True"]

# Stock Stable-Baselines3: what it sees of the agents, and whether they learn there.
STOCK = """
import json, sys
sys.modules["rl_crop"] = None
import torch as th
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env

found = {}
for algorithm, env, path in ((PPO, "CartPole-v1", sys.argv[1]), (SAC, "Pendulum-v1", sys.argv[2])):
    model = algorithm.load(path)
    model = algorithm.load(path, env=make_vec_env(env, n_envs=model.n_envs))
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(512)
    moved = all(not th.equal(p, old) for p, old in zip(model.policy.parameters(), before))
    found[env] = {"net_arch": model.policy.net_arch, "history": model.pruning_history, "moved": moved}
print(json.dumps(found))
"""


def documented(*words):
    """The one command of the guide that has all these words in it."""
    text = (ROOT / "docs" / "rl_zoo.md").read_text().replace("\\\n", " ")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    [command] = [found for found in commands if all(word in found for word in words)]
    return command


def with_more(command, *more, params=()):
    """The arguments of a command of the guide, as it stands but for further ones; "python" is left out."""
    assert command[:2] == ["python", "-m"]
    place = command.index("-params") if "-params" in command else len(command)
    values = [*command[place + 1 :], *params]
    return [*command[1:place], *more, *(["-params", *values] if values else [])]


def python(folder, *arguments):
    """What a Python of its own prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where PPO and SAC have been trained, pruned, evaluated and saved."""
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "configs").symlink_to(ROOT / "configs")
    for algorithm, short in SHORT.items():
        command = documented("rl_zoo3.train", algorithm, "--seed")
        extra = ["--save-replay-buffer"] if algorithm == "sac" else []
        assert "Pruned at" in python(folder, *with_more(command, *short.split(), *extra, params=SMALL))
    return folder


@pytest.fixture
def zoo(folder, monkeypatch, capsys):
    """Runs a command in this process, which saves the imports; returns what it prints."""

    def run(command, *more, params=()):
        _, module, *arguments = with_more(command, *more, params=params)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        capsys.readouterr()
        getattr(importlib.import_module(module), module.split(".")[-1])()
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def ppo_run(folder):
    return folder / "logs" / "ppo" / "CartPole-v1_1"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_files_are_rl_zoos_own_but_for_width_and_pruning(config):
    import rl_zoo3

    theirs = yaml.safe_load((Path(rl_zoo3.__file__).parent / "hyperparams" / config.name).read_text())
    for env, hyperparams in yaml.safe_load(config.read_text()).items():
        [callback] = get_callback_list(hyperparams)
        assert isinstance(callback, rl_crop.PruningCallback)
        assert callback.resolved.driver == "single"  # raises for wrong arguments
        ours = {key: value for key, value in hyperparams.items() if key not in ("callback", "policy_kwargs")}
        assert ours == theirs[env]


@pytest.mark.long
def test_the_agents_are_pruned_and_ordinary_zips(folder):
    paths = [
        folder / "logs" / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip",
        folder / "logs" / "sac" / "Pendulum-v1_1" / "Pendulum-v1.zip",
    ]
    found = json.loads(python(folder, "-c", STOCK, *map(str, paths)).splitlines()[-1])
    for env, first, goal in (
        ("CartPole-v1", "mlp_extractor.policy_net", {"actor": 0.9, "critic": 0.9}),
        ("Pendulum-v1", "actor.latent_pi", {"actor": 0.9, "critic": 0.8}),
    ):
        [event] = found[env]["history"]
        assert event["source"] == "PruningCallback" and all(event["sparsity"][name] >= share for name, share in goal.items())
        widths = found[env]["net_arch"]["pi"]
        assert widths == [event["widths"][f"{first}.{layer}"][1] for layer in (0, 2)] and max(widths) < 16
        assert found[env]["moved"]


@pytest.mark.long
def test_zoos_own_callbacks_save_the_right_shapes(ppo_run):
    def widths(name):
        return PPO.load(ppo_run / name).policy.mlp_extractor.latent_dim_pi

    final = widths("CartPole-v1.zip")
    assert final < 16
    assert widths("rl_model_512_steps.zip") == widths("best_model_dense.zip") == 16
    assert widths("rl_model_1536_steps.zip") == widths("best_model.zip") == final
    assert (ppo_run / "CartPole-v1" / "vecnormalize.pkl").exists()


@pytest.mark.long
def test_enjoy(zoo):
    output = zoo(documented("rl_zoo3.enjoy"), "--exp-id", "1", "-n", "600")
    assert "best_model.zip" in output and float(re.search(r"Mean reward: ([\d.]+)", output)[1]) >= 8


@pytest.mark.long
@pytest.mark.parametrize("algorithm,env", [("ppo", "CartPole-v1"), ("sac", "Pendulum-v1")])
def test_a_resumed_agent_is_not_pruned_again(zoo, folder, algorithm, env):
    runs = folder / "logs" / algorithm
    earlier = set(runs.iterdir())
    output = zoo(documented("-i", algorithm), *SHORT[algorithm].split(), params=["normalize:True"])
    assert "pruned already" in output and "Pruned at" not in output
    [new] = set(runs.iterdir()) - earlier
    before, after = ({"ppo": PPO, "sac": SAC}[algorithm].load(run / f"{env}.zip") for run in (runs / f"{env}_1", new))
    assert before.policy.net_arch == after.policy.net_arch and len(after.pruning_history) == 1


@pytest.mark.long
def test_the_callback_on_the_command_line(zoo):
    assert "Pruned at" in zoo(documented("rl_zoo3.train", "-params"), *SHORT["ppo"].split(), params=SMALL)
