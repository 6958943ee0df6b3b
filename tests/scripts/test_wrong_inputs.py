"""What users get wrong, by the hundred: one line that says so, an exit status that is not 0, and no file like a result."""

import runpy
import sys
from pathlib import Path

import pytest
import yaml

from rl_crop import cli
from rl_crop.evaluation.command import TRACEBACK, command
from scripts import custom_loop, demo, evaluate, export, plot, prune, random_policy, sweep, train
from tests.scripts.wrong_files import CONFIGS, GOOD, damaged_zips, make_agent

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    return make_agent(tmp_path_factory.mktemp("agent") / "run")


@pytest.fixture(scope="module")
def zips(agent, tmp_path_factory):
    return damaged_zips(agent / "model.zip", tmp_path_factory.mktemp("damaged") / "zips")


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """A function that runs a script (or, for ``None``, ``rl-crop``) with words that it must refuse."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TRACEBACK, raising=False)

    def check(script, *words):
        words = [str(word) for word in words]
        capsys.readouterr()
        try:
            status = cli.main(words) if script is None else command(script.main, script.Args, "", words)
        except SystemExit as end:  # the words themselves cannot be read
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            status = end.code if isinstance(end.code, int) else 1
        printed = capsys.readouterr()
        assert status not in (0, None), (words, printed.out[-300:])
        assert "Traceback" not in printed.err + printed.out, (words, printed.err)
        if status == 1:
            line = printed.err.split("\r")[-1].strip()  # a progress bar is wiped away
            assert line.startswith(("Error: ", "rl-crop: ")) and "\n" not in line and len(line) > 20, (words, line)
            assert not line.startswith(("Error: AttributeError", "Error: KeyError", "Error: UnboundLocal")), (words, line)
        else:
            assert status == 2 and printed.err + printed.out, words
        results = [path for path in tmp_path.rglob("*") if path.suffix in (".zip", ".onnx", ".c", ".json", ".html", ".png")]
        assert not results, (words, results)
        return printed.err

    return check


def test_configurations_that_cannot_be_run(refused, tmp_path):
    path = tmp_path / "task.yaml"
    for kind, content in CONFIGS.items():
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        message = refused(train, path, "--out", tmp_path / "run", "--no-progress-bar")
        assert "is not a zip" not in message, kind
    assert len(CONFIGS) > 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dense", "--sparsity", "0.9"], "--dense"),
        (["--dense", "--criterion", "crop"], "--dense"),
        (["--dense", "--when", "0.2"], "--dense"),
        (["--dense", "--set", "pruning.sparsity=0.5"], "--dense"),
        (["--sparsity", "nan"], "sparsity"),
        (["--sparsity", "inf"], "sparsity"),
        (["--sparsity", "1"], "sparsity"),
        (["--sparsity", "-0.5"], "sparsity"),
        (["--sparsity", "much"], ""),
        (["--criterion", "corp"], "corp"),
        (["--when", "soon"], "soon"),
        (["--when", "["], "--when"),
        (["--when", "1.0"], "when"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "1.5"], ""),
        (["--seed", str(2**40)], "--seed"),
        (["--verbose", "7"], "--verbose"),
        (["--set", "n_timesteps"], "key=value"),
        (["--set", "=5"], "key=value"),
        (["--set", "pruning..sparsity=0.5"], "key=value"),
        (["--set", "n_timesteps=["], "n_timesteps"),
        (["--set", "n_timesteps=.nan"], "n_timesteps"),
        (["--set", "n_timesteps=64", "--set", "n_timesteps=128"], "twice"),
        (["--set", "policy_kwargs=5", "--set", "policy_kwargs.net_arch=[4]"], "policy_kwargs"),
        (["--set", "pruning={sparsity: 0.5, sparsity: 0.6}"], "twice"),
        (["--no-such"], ""),
    ],
    ids=str,
)
def test_words_that_training_cannot_mean(refused, tmp_path, words, message):
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert message in refused(train, path, "--out", tmp_path / "run", "--no-progress-bar", *words)


def test_places_that_cannot_be_written(refused, agent, tmp_path):
    path, taken = tmp_path / "task.yaml", tmp_path / "taken"
    path.write_text(yaml.safe_dump(GOOD))
    taken.write_text("a file")
    assert "is a file" in refused(train, path, "--out", taken)
    refused(train, tmp_path)  # a directory for a file
    refused(train, tmp_path / "none.yaml")
    refused(prune, agent, "--sparsity", "0.5", "--out", taken / "small.zip")
    refused(prune, agent, "--sparsity", "0.5", "--out", tmp_path / "small.pth")
    refused(export, agent, "--out", taken / "policy.c", "--repetitions", "0")
    refused(evaluate, agent, "--n-episodes", "1", "--n-envs", "1", "--noise", "--json", taken / "figures.json")
    refused(None, "prune", agent, "--env", "CartPole-v1", "--episodes", "1", "--out", taken / "small.zip")
    refused(None, "export", agent, "--out", taken / "policy.c")


def test_agents_that_are_damaged(refused, zips, agent, tmp_path):
    count, good = 0, agent / "model.zip"
    for kind, path in zips.items():
        if kind != "a folder":
            assert str(path) in refused(None, "inspect", path), kind
        refused(None, "prune", path, "--env", "CartPole-v1", "--sparsity", "0.5", "--out", tmp_path / "out.zip")
        refused(None, "evaluate", path, "--env", "CartPole-v1", "--episodes", "1")
        refused(None, "export", path, "--out", tmp_path / "out.c")
        refused(None, "compare", good, path, "--env", "CartPole-v1", "--episodes", "1")
        refused(prune, path, "--sparsity", "0.5", "--out", tmp_path / "out.zip")
        refused(evaluate, path, "--n-episodes", "1", "--n-envs", "1", "--noise")
        refused(export, path, "--out", tmp_path / "out.c", "--repetitions", "0")
        count += 8
    assert count > 100


def test_what_lies_beside_an_agent_is_damaged(refused, agent, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    model = home / "agent"  # a name that the check for results does not look for
    model.write_bytes((agent / "model.zip").read_bytes())
    for kind in ("empty", "a list", "unclosed", "Latin-1", "binary", "a key twice", "n_timesteps: nan", "algo: ppoo"):
        content = CONFIGS[kind]
        (home / "config.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
        for script in (prune, evaluate, export):
            assert "config.yaml" in refused(script, model), kind
    (home / "config.yaml").unlink()
    for script in (prune, evaluate, export):
        assert "config.yaml is missing" in refused(script, model)
        refused(script, model, "--config", home / "none.yaml")
    (home / "config.yaml").write_text(yaml.safe_dump({**GOOD, "normalize": True}))
    statistics = home / "vecnormalize.pkl"
    for content in (None, b"", b"pickle", b"\x80\x04]\x94.", bytes(range(256))):
        if content is not None:
            statistics.write_bytes(content)
        for script in (prune, evaluate, export):
            assert "vecnormalize.pkl" in refused(script, model)
        assert "vecnormalize.pkl" in refused(None, "evaluate", model, "--env", "CartPole-v1", "--vecnormalize", statistics)
    statistics.unlink()
    for change in ({"env": "Pendulum-v1"}, {"algo": "sac"}, {"algo": "a2c"}, {"env": "Nowhere-v0"}, {"algo": "dqn"}):
        (home / "config.yaml").write_text(yaml.safe_dump({**GOOD, "n_steps": 5} | change | {"n_timesteps": 64}))
        for script in (prune, evaluate, export):
            refused(script, model)


COMMANDS = [
    [], ["shrink"], ["inspect"], ["inspect", "A", "B"], ["inspect", "A", "--algo", "ppoo"], ["inspect", "A", "--algo", "a2c"],
    ["inspect", "A", "--vecnormalize", "x.pkl"], ["prune", "A"], ["prune", "A", "--env", "CartPole-v1", "--sparsity", "nan"],
    ["prune", "A", "--env", "CartPole-v1", "--sparsity", "inf"], ["prune", "A", "--env", "CartPole-v1", "--sparsity", "-1"],
    ["prune", "A", "--env", "CartPole-v1", "--sparsity", "1"], ["prune", "A", "--env", "CartPole-v1", "--sparsity", "half"],
    ["prune", "A", "--env", "CartPole-v1", "--max-params", "0"], ["prune", "A", "--env", "CartPole-v1", "--max-params", "3"],
    ["prune", "A", "--env", "CartPole-v1", "--max-params", "1.5"], ["prune", "A", "--env", "CartPole-v1", "--max-flops", "2"],
    ["prune", "A", "--env", "CartPole-v1", "--sparsity", "0.5", "--max-params", "50"],
    ["prune", "A", "--env", "CartPole-v1", "--max-params", "50", "--max-flops", "50"],
    ["prune", "A", "--env", "CartPole-v1", "--tolerance", "nan"], ["prune", "A", "--env", "CartPole-v1", "--tolerance", "0"],
    ["prune", "A", "--env", "CartPole-v1", "--tolerance", "2"],
    ["prune", "A", "--env", "CartPole-v1", "--sparsity", "0.5", "--tolerance", "0.01"],
    ["prune", "A", "--env", "CartPole-v1", "--criterion", "luck"],
    ["prune", "A", "--env", "CartPole-v1", "--networks", "actor"],
    ["prune", "A", "--env", "CartPole-v1", "--sparsity", "0.5", "--networks", "nobody"],
    ["prune", "A", "--env", "CartPole-v1", "--sparsity", "0.5", "--out", "small.pth"],
    ["prune", "A", "--env", "CartPole-v1", "--sparsity", "0.5", "--out", "A"],
    ["prune", "A", "--env", "Pendulum-v1"], ["prune", "A", "--env", "Nowhere-v0"], ["prune", "A", "--env", ""],
    ["prune", "A", "--env", "CartPole-v1", "--seed", "-1"], ["prune", "A", "--env", "CartPole-v1", "--seed", "x"],
    ["prune", "A", "--env", "CartPole-v1", "--seed", str(2**70)], ["prune", "A", "--env", "CartPole-v1", "--episodes", "0"],
    ["evaluate", "A"], ["evaluate", "A", "--env", "CartPole-v1", "--episodes", "-3"],
    ["evaluate", "A", "--env", "CartPole-v1", "--episodes", "1.5"], ["evaluate", "A", "--env", "Pendulum-v1"],
    ["evaluate", "A", "--env", "CartPole-v1", "--vecnormalize", "none.pkl"], ["export", "A", "--out", "policy.doc"],
    ["export", "A", "--out", "policy"], ["export", "A", "--env", "Pendulum-v1", "--out", "policy.c"], ["compare"],
    ["compare", "A"], ["compare", "A", "A", "--env", "CartPole-v1"], ["compare", "A", "none.zip", "--env", "CartPole-v1"],
    ["compare", "A", "--env", "Nowhere-v0"],
]  # fmt: skip


def test_words_that_the_command_cannot_mean(refused, agent):
    for words in COMMANDS:
        refused(None, *[agent / "model.zip" if word == "A" else word for word in words])


SCRIPTS = [
    (prune, ["--sparsity", "nan"]), (prune, ["--sparsity", "2"]), (prune, ["--sparsity", "x"]), (prune, ["--max-params", "0"]),
    (prune, ["--max-params", "-4"]), (prune, ["--max-params", "4"]), (prune, ["--sparsity", "0.5", "--max-params", "40"]),
    (prune, ["--tolerance", "nan"]), (prune, ["--tolerance", "1.5"]), (prune, ["--sparsity", "0.5", "--tolerance", "0.1"]),
    (prune, ["--criterion", "luck"]), (prune, ["--compensation", "hope"]), (prune, ["--seed", "-1"]),
    (prune, ["--seed", str(2**40)]), (prune, ["--config", "none.yaml"]), (prune, ["--out", "x.txt"]),
    (evaluate, ["--n-episodes", "0"]), (evaluate, ["--n-episodes", "-1"]), (evaluate, ["--n-envs", "0"]),
    (evaluate, ["--noise", "nan"]), (evaluate, ["--noise", "inf"]), (evaluate, ["--noise", "-0.1"]),
    (evaluate, ["--noise", "0"]),
    (evaluate, ["--noise", "0.1", "0.1"]), (evaluate, ["--noise", "loud"]), (evaluate, ["--seed", "-1"]),
    (evaluate, ["--picture", "noise.doc"]), (evaluate, ["--picture", "noise"]), (evaluate, ["--noise", "--picture", "a.svg"]),
    (evaluate, ["--config", "none.yaml"]), (export, ["--out", "policy.doc"]), (export, ["--out", "policy"]),
    (export, ["--out", "a.c", "--out", "b.c"]), (export, ["--repetitions", "-1"]), (export, ["--repetitions", "x"]),
    (export, ["--seed", "-1"]), (export, ["--opset", "2"]), (export, ["--out", "a.c", "--opset", "17"]),
    (export, ["--dense", "none.zip", "--out", "a.txt"]),
]  # fmt: skip


def test_words_that_scripts_for_agents_cannot_mean(refused, agent):
    for script, words in SCRIPTS:
        refused(script, agent, *words)
    for script in (prune, export):
        refused(script)
    refused(evaluate)
    refused(evaluate, agent, agent)


LOOPS = [
    (custom_loop, ["--width", "0"]), (custom_loop, ["--n-envs", "0"]), (custom_loop, ["--n-steps", "-1"]),
    (custom_loop, ["--n-epochs", "0"]), (custom_loop, ["--n-episodes", "0"]), (custom_loop, ["--n-timesteps", "10"]),
    (custom_loop, ["--sparsity", "1"]), (custom_loop, ["--sparsity", "nan"]), (custom_loop, ["--prune-at", "1.5"]),
    (custom_loop, ["--prune-at", "nan"]), (custom_loop, ["--gamma", "2"]), (custom_loop, ["--gae-lambda", "nan"]),
    (custom_loop, ["--learning-rate", "nan"]), (custom_loop, ["--learning-rate", "0"]), (custom_loop, ["--clip-range", "-1"]),
    (custom_loop, ["--ent-coef", "nan"]), (custom_loop, ["--seed", "-1"]), (custom_loop, ["--criterion", "luck"]),
    (custom_loop, ["--env", "Pendulum-v1"]), (custom_loop, ["--env", "Nowhere-v0"]), (demo, ["--sparsity", "1"]),
    (demo, ["--sparsity", "nan"]), (demo, ["--seed", "-1"]), (demo, ["--n-timesteps", "0"]), (demo, ["--n-timesteps", "-1"]),
    (random_policy, ["none"]), (random_policy, ["none", "--seeds", "0"]), (random_policy, ["none", "--episodes", "0"]),
    (random_policy, []), (plot, []), (plot, ["none"]), (plot, ["none.jsonl.gz"]),
]  # fmt: skip


def test_words_that_other_scripts_cannot_mean(refused):
    for script, words in LOOPS:
        refused(script, *words)


STUDY = {
    "tasks": {"cartpole": {"config": "task.yaml"}},
    "arms": {"dense": "dense", "crop": {"criterion": "crop", "when": 0.5}},
    "sparsities": [0.5],
    "seeds": [0],
}


def study_with(**changes):
    return {**STUDY, **changes}


TASK = {"config": "task.yaml"}
PATHS = ["../up", "a/b", "/root", "..", ".", ".hidden", "", "a\\b", "a b", "a\n", "x" * 200, 5, True, None]
STUDIES = [
    {}, [], "study", study_with(no_such=1), study_with(tasks=None), study_with(tasks={}), study_with(tasks=["cartpole"]),
    study_with(tasks={"cartpole": None}), study_with(tasks={"cartpole": "task.yaml"}), study_with(tasks={"cartpole": {}}),
    study_with(tasks={"cartpole": {"config": "none.yaml"}}), study_with(tasks={"cartpole": {"config": 5}}),
    study_with(tasks={"cartpole": {"config": "."}}), study_with(tasks={"cartpole": {**TASK, "overrides": 5}}),
    study_with(tasks={"cartpole": {**TASK, "overrides": {"n_timesteps": 0}}}),
    study_with(tasks={"cartpole": {**TASK, "overrides": {"gamma": float("nan")}}}),
    study_with(tasks={"cartpole": {**TASK, "pruning": 5}}),
    study_with(tasks={"cartpole": {**TASK, "pruning": {"sparsty": 1}}}),
    study_with(tasks={"cartpole": {**TASK, "arms": "dense"}}), study_with(tasks={"cartpole": {**TASK, "arms": ["nobody"]}}),
    study_with(tasks={"cartpole": {**TASK, "arms_at": {0.7: ["dense"]}}}),
    study_with(tasks={"cartpole": {**TASK, "seeds": 5}}),
    *(study_with(tasks={name: TASK}) for name in PATHS), *(study_with(arms={name: "dense"}) for name in PATHS),
    study_with(arms=None), study_with(arms=["dense"]), study_with(arms={}), study_with(arms={"dense": "sparse"}),
    study_with(arms={"crop": {"criterion": "corp"}}), study_with(arms={"crop": {"when": "soon"}}),
    study_with(arms={"crop": {"sparsty": 0.5}}), study_with(arms={"crop": {"structured": "yes"}}),
    study_with(arms={"crop": {"recipe": "none such"}}), study_with(arms={"small": {"widths_of": "nobody"}}),
    study_with(arms={"small": {"widths_of": "dense"}, "dense": "dense"}), study_with(recipes="some"),
    study_with(recipes=["none such"]), study_with(recipes=5), study_with(sparsities=None), study_with(sparsities=[]),
    study_with(sparsities=0.9), study_with(sparsities=["much"]), study_with(sparsities=[1.5]), study_with(sparsities=[-0.1]),
    study_with(sparsities=[float("nan")]), study_with(sparsities=[float("inf")]), study_with(sparsities=[True]),
    study_with(sparsities=[{}]), study_with(sparsities=[{"actor": 2}]), study_with(sparsities=[0.5, 0.5]),
    study_with(sparsities=[None]), study_with(seeds=None), study_with(seeds=[]), study_with(seeds=3), study_with(seeds=[-1]),
    study_with(seeds=[1.5]), study_with(seeds=["zero"]), study_with(seeds=[True]), study_with(seeds=[0, 0]),
    study_with(seeds=[2**40]), study_with(seeds=[None]),
]  # fmt: skip


def test_studies_that_cannot_be_run_are_refused_before_anything_runs_and_by_list_too(refused, tmp_path):
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(GOOD))
    path = tmp_path / "study.yaml"
    for study in STUDIES:
        path.write_text(yaml.safe_dump(study))
        for words in (["--list"], []):
            refused(sweep, path, "--results", tmp_path / "results", *words)
        assert not (tmp_path / "results").exists(), study
    path.write_text(yaml.safe_dump(STUDY))
    taken = tmp_path / "taken"
    taken.write_text("a file")
    for words in (
        ["--jobs", "0"], ["--jobs", "x"], ["--retries", "-1"], ["--only", "cartpole"], ["--only", "task=nobody"],
        ["--only", "colour=red"], ["--engine", "cloud"], ["--list", "--merge"], ["--keep-runs", taken], ["--results", taken],
    ):  # fmt: skip
        refused(sweep, path, *words)
    for content in (b"", b"\xff\xfe", b"tasks: [", b"tasks: {}\ntasks: {}\n", b"tasks: &a {x: *a}\n"):
        path.write_bytes(content)
        refused(sweep, path, "--list")
    assert len(STUDIES) > 70


@pytest.mark.parametrize("script", ["train", "prune", "evaluate", "export", "plot", "sweep", "random_policy", "demo"])
def test_a_missing_extra_is_named_with_a_way_to_install_it(script, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.delitem(sys.modules, "command_line", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    message = end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err
    assert end.value.code not in (0, None) and message.startswith("Error: ") and "\n" not in message.strip()
    assert "extra 'scripts'" in message and "pip install -e '.[scripts]'" in message


def test_a_traceback_is_there_for_who_asks_for_it(agent, monkeypatch):
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(ValueError, match="sparsity"):
        command(prune.main, prune.Args, "", [str(agent), "--sparsity", "2"])


def test_a_full_disk_is_said(refused, agent, monkeypatch, tmp_path):
    def full(*args, **keywords):
        raise OSError(28, "No space left on device", str(tmp_path / "small.zip"))

    monkeypatch.setattr("rl_crop.files.os.replace", full)
    assert "no space left on device" in refused(prune, agent, "--sparsity", "0.5", "--out", tmp_path / "small.zip")
    assert "no space left on device" in refused(
        None, "prune", agent, "--env", "CartPole-v1", "--episodes", "1", "--sparsity", "0.5", "--out", tmp_path / "small.zip"
    )
