"""The console command: every subcommand on real zips, in a process of its own at least once, and what users get wrong."""

import subprocess
import sys
import zipfile

import pytest
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from rl_crop import cli
from rl_crop.evaluation.zips import algorithm_of, find_zip
from tests.zoo.long import and_long

ALGORITHMS = {
    "ppo": (PPO, "CartPole-v1"), "a2c": (A2C, "CartPole-v1"), "dqn": (DQN, "CartPole-v1"), "sac": (SAC, "Pendulum-v1"),
    "td3": (TD3, "Pendulum-v1"), "ddpg": (DDPG, "Pendulum-v1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def zips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zips")
    for name, (algorithm, env) in ALGORITHMS.items():
        algorithm("MlpPolicy", env, policy_kwargs={"net_arch": [32, 32]}, seed=0, device="cpu").save(folder / name)
    for name in ("TQC", "QRDQN", "CrossQ", "TRPO", "MaskablePPO", "RecurrentPPO"):
        contrib = pytest.importorskip("sb3_contrib")
        env = "CartPole-v1" if name in ("QRDQN", "TRPO", "MaskablePPO", "RecurrentPPO") else "Pendulum-v1"
        policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
        getattr(contrib, name)(policy, env, policy_kwargs={"net_arch": [16, 16]}, device="cpu").save(folder / name)
    return folder


NAMES = {
    "TQC": "tqc",
    "QRDQN": "qrdqn",
    "CrossQ": "crossq",
    "TRPO": "trpo",
    "MaskablePPO": "ppo_mask",
    "RecurrentPPO": "ppo_lstm",
}


@pytest.mark.parametrize(("file", "name"), [*((name, name) for name in ALGORITHMS), *NAMES.items()])
def test_the_algorithm_is_found_in_the_zip(zips, file, name):
    assert algorithm_of(zips / f"{file}.zip") == name


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_inspect(zips, capsys):
    assert run("inspect", zips / "ppo.zip") == 0
    printed = capsys.readouterr().out
    assert "PPO with ActorCriticPolicy" in printed and "parameters" in printed and "32" in printed


def test_prune_finds_the_size_and_says_what_to_type_next(zips, capsys):
    out = zips / "small.zip"
    assert run("prune", zips / "ppo.zip", "--env", "CartPole-v1", "--episodes", "2", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "size of actor found" in printed and "before: return" in printed and f"Next:  rl-crop export {out}" in printed
    small = PPO.load(out)
    assert small.pruning_history[-1]["n_params_after"] < small.pruning_history[-1]["n_params_before"]
    assert run("inspect", out) == 0 and "pruned at 0 timesteps by obs_crop" in capsys.readouterr().out
    assert run("compare", zips / "ppo.zip", out, "--env", "CartPole-v1", "--episodes", "2") == 0
    assert "worst tenth" in capsys.readouterr().out
    assert run("export", out, "--out", zips / "policy.c") == 0 and (zips / "policy.c").exists()


def test_a_budget_and_a_share(zips):
    for size in (["--max-params", "1000"], ["--sparsity", "0.5"]):
        assert run("prune", zips / "sac.zip", "--env", "Pendulum-v1", "--episodes", "1", *size) == 0
    assert SAC.load(zips / "sac_pruned.zip").pruning_history


def test_normalisation_and_directories_are_found(tmp_path, capsys):
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    model = A2C("MlpPolicy", env, device="cpu").learn(50)
    run_folder = tmp_path / "Pendulum-v1_1"  # as RL Zoo lays it out
    (run_folder / "Pendulum-v1").mkdir(parents=True)
    model.save(run_folder / "Pendulum-v1.zip")
    model.save(run_folder / "best_model.zip")
    env.save(str(run_folder / "Pendulum-v1" / "vecnormalize.pkl"))
    assert find_zip(run_folder).name == "Pendulum-v1.zip"
    assert run("evaluate", run_folder, "--env", "Pendulum-v1", "--episodes", "2") == 0
    assert "in 2 episodes" in capsys.readouterr().out


def wrong(zips):
    damaged, other = zips / "damaged.zip", zips / "other.zip"
    damaged.write_bytes((zips / "ppo.zip").read_bytes()[:500])
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("letter.txt", "hello")
    ppo = zips / "ppo.zip"
    return [
        (["inspect", zips / "nobody.zip"], "nothing at"),
        (["inspect", damaged], "no zip of Stable-Baselines3"),
        (["inspect", other], "cannot be read|no agent"),
        (["inspect", zips], "name one of them"),
        (["inspect", ppo, "--algo", "sac"], "does not load as sac"),
        (["prune", ppo], "name the environment with --env"),
        (["prune", ppo, "--env", "Nowhere-v0"], "cannot be made"),
        (["prune", ppo, "--env", "Pendulum-v1"], "does not load"),
        (["prune", ppo, "--env", "CartPole-v1", "--sparsity", "1.5"], "sparsity is 1.5"),
        (["prune", ppo, "--env", "CartPole-v1", "--sparsity", "0.5", "--max-params", "9"], "in two ways"),
        (["prune", ppo, "--env", "CartPole-v1", "--out", ppo], "another file"),
        (["prune", ppo, "--env", "CartPole-v1", "--criterion", "luck"], "luck"),
        (["evaluate", ppo, "--env", "CartPole-v1", "--vecnormalize", zips / "none.pkl"], "no statistics"),
        (["export", ppo, "--out", zips / "policy.doc"], "doc"),
    ]


def test_what_is_wrong_is_said_in_one_line(zips, capsys):
    for arguments, message in wrong(zips):
        assert run(*arguments) == 1, arguments
        printed = capsys.readouterr().err
        assert printed.startswith("rl-crop: ") and "Traceback" not in printed
        assert __import__("re").search(message, printed), (arguments, printed)


@pytest.mark.parametrize("arguments", and_long([["evaluate", "x.zip", "--episodes", "0"]], [[], ["shrink"], ["prune"]]))
def test_wrong_words_end_with_the_usage(arguments):
    found = subprocess.run([sys.executable, "-m", "rl_crop.cli", *arguments], capture_output=True, text=True)
    assert found.returncode == 2 and "usage: rl-crop" in found.stderr and "Traceback" not in found.stderr
