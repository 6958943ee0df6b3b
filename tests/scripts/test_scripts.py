"""The scripts as a user meets them: what they print, what they write, what they refuse."""

from pathlib import Path

import pytest

import rl_crop
from rl_crop.evaluation import ConfigError, SavedAgent
from rl_crop.evaluation.networks import read_widths
from rl_crop.files import read_json
from scripts import evaluate, prune, sweep, train

ROOT = Path(__file__).parents[2]
CARTPOLE = ROOT / "configs" / "ppo_cartpole.yaml"
SHORT = (
    "n_timesteps=512",
    "policy_kwargs.net_arch={pi: [16, 16], vf: [16, 16]}",
    "evaluation.n_evals=2",
    "evaluation.n_episodes=2",
    "evaluation.final_episodes=4",
)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A dense agent, as train.py leaves it."""
    directory = tmp_path_factory.mktemp("dense") / "run"
    train.main(train.Args(CARTPOLE, dense=True, set=(*SHORT, "normalize=true"), out=directory, progress_bar=False))
    return directory


def test_train_takes_the_file_and_what_the_command_line_changes():
    config = train.resolve(train.Args(CARTPOLE))
    assert config.n_timesteps == 100_000 and config.pruning["criterion"] == "span_crop"
    config = train.resolve(train.Args(CARTPOLE, sparsity=0.8, criterion="crop", when="0.25", set=("pruning.min_units=2",)))
    assert config.pruning == {"sparsity": 0.8, "criterion": "crop", "when": 0.25, "min_units": 2}
    assert train.resolve(train.Args(CARTPOLE, when="lazy")).pruning["when"] == "lazy"
    assert train.resolve(train.Args(CARTPOLE, dense=True)).pruning is None
    with pytest.raises(ConfigError, match="n_step"):
        train.resolve(train.Args(CARTPOLE, set=("n_step=5",)))
    with pytest.raises(ConfigError, match="key=value"):
        train.resolve(train.Args(CARTPOLE, set=("n_steps",)))


def test_train_says_where_things_are_and_what_comes_next(dense, capsys, tmp_path):
    train.main(train.Args(CARTPOLE, dense=True, set=SHORT, out=tmp_path / "run", progress_bar=False))
    printed = capsys.readouterr().out
    assert str(tmp_path / "run") in printed
    assert "scripts/evaluate.py" in printed and "scripts/prune.py" in printed
    assert SavedAgent.find(tmp_path / "run").config.n_timesteps == 512


def test_train_prunes(tmp_path, capsys):
    train.main(train.Args(CARTPOLE, sparsity=0.5, when="256", set=SHORT, out=tmp_path / "run", progress_bar=False))
    report = read_json(tmp_path / "run" / "report.json")
    (cut,) = report["cuts"]
    assert cut["timesteps"] == 256 and cut["widths_before"] == {"pi": [16, 16], "vf": [16, 16]}
    assert cut["widths_after"] == report["widths"] == read_widths(SavedAgent.find(tmp_path / "run").load())
    assert len(report["pruning_history"]) == 1
    assert "Cut at 256 steps" in capsys.readouterr().out


def test_unknown_pruning_argument_is_named(tmp_path):
    with pytest.raises(ConfigError, match="pruning.sparsty"):
        train.main(train.Args(CARTPOLE, set=(*SHORT, "pruning.sparsty=0.5"), out=tmp_path, progress_bar=False))


def test_prune_keeps_the_original_and_evaluate_compares(dense, tmp_path, capsys):
    before = (dense / "model.zip").read_bytes()
    small = tmp_path / "small.zip"
    prune.main(prune.Args(dense, sparsity=0.8, out=small))
    printed = capsys.readouterr().out
    assert (dense / "model.zip").read_bytes() == before
    assert str(small) in printed and "scripts/evaluate.py" in printed
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "small.config.yaml",
        "small.report.json",
        "small.vecnormalize.pkl",
        "small.zip",
    ]
    report = read_json(tmp_path / "small.report.json")
    assert report["n_params_after"] < report["n_params_before"]

    evaluate.main(evaluate.Args((dense, small), n_episodes=4, noise=(0.1,), json=tmp_path / "figures.json"))
    figures = read_json(tmp_path / "figures.json")
    assert len(figures[str(small)]["returns"]) == 4
    assert figures[str(small)]["n_params"]["total"] < figures[str(dense)]["n_params"]["total"]
    assert str(small) in capsys.readouterr().out


def test_prune_refuses_to_overwrite_the_original(dense):
    with pytest.raises(ConfigError, match="is the agent itself"):
        prune.main(prune.Args(dense, sparsity=0.8, out=dense / "model.zip"))


def test_an_impossible_sparsity_leaves_no_file(dense, tmp_path):
    with pytest.raises(rl_crop.PruningError):
        prune.main(prune.Args(dense, sparsity=1.5, out=tmp_path / "small.zip"))
    assert list(tmp_path.iterdir()) == []


def test_sweep_lists_what_is_to_do(tmp_path, capsys):
    study = ROOT / "configs" / "study_returns.yaml"
    sweep.main(sweep.Args(study, list=True, only="task=ppo_cartpole,arm=dense", results=tmp_path))
    printed = capsys.readouterr().out
    assert (
        printed.count("to do   ppo_cartpole__dense__0__seed") == 5
        and "5 cells: 0 done, 0 failed, 0 running, 5 to do" in printed
    )
    assert sweep.default_results(study) == Path("runs/returns")
