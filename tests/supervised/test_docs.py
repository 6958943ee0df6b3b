"""The guide to supervised tasks shows what there is, and its example runs."""

import re
from pathlib import Path

import yaml

from rl_crop.core.pruning.report import PruningReport

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "supervised.md").read_text()
CONFIGS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "configs" / "supervised").glob("*.yaml")}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_table_names_every_configuration():
    table = TEXT[TEXT.index("| configuration") : TEXT.index("Every measure")]
    named = {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line)}
    assert named == set(CONFIGS)


def test_the_configuration_is_a_file():
    (shown,) = blocks("yaml")
    assert yaml.safe_load(shown) == CONFIGS["digits_cnn"]


def test_the_example_runs(capsys):
    (example,) = blocks("python")
    namespace = {}
    exec(compile(example, "docs/supervised.md", "exec"), namespace)
    report = namespace["report"]
    assert isinstance(report, PruningReport) and report.sparsity["total"] >= 0.8
    assert str(report) in capsys.readouterr().out
    assert namespace["trainer"].evaluate() > 0.5
