"""What this project has recorded: every line is a cell of its study, and its hash is still that of its configuration."""

import subprocess
from pathlib import Path

import pytest

from lab.supervised.config import SupervisedConfig
from rl_crop.evaluation.config import RunConfig
from rl_crop.evaluation.store import Store
from rl_crop.evaluation.study import Cell, load_study
from rl_crop.files import read_lines

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "docs" / "results"
STUDIES = sorted(path.stem.removeprefix("study_") for path in (ROOT / "configs").glob("study_*.yaml"))
LIMIT = 10_000_000
"""Bytes in the working tree of a fresh clone."""


def hash_of(line):
    """:return: the hash of a line that holds all of its configuration"""
    kind = SupervisedConfig if "data" in line["config"] else RunConfig
    return Cell(line["task"], line["arm"], line["sparsity"], line["seed"], kind.from_dict(line["config"])).hash


@pytest.mark.parametrize("study", STUDIES)
def test_hashes_are_those_of_the_configurations(study):
    cells = {cell.name: cell for cell in load_study(ROOT / "configs" / f"study_{study}.yaml")}
    lines = {line["name"]: line for line in read_lines(RECORDED / f"{study}.jsonl.gz")}
    assert lines and lines.keys() <= cells.keys()  # a name ends with the hash, here of the configuration in the study
    for name, line in lines.items():
        cell = cells[name]
        assert line["hash"] == cell.hash
        if cell.widths_of is None:
            assert line["hash"] == hash_of(line)
        else:  # its hash stands for where its widths come from
            assert line["widths"] == lines[cell.widths_of.name]["widths"]


@pytest.mark.parametrize("study", STUDIES)
def test_a_sweep_on_what_is_recorded_has_nothing_to_do(study):
    store = Store.at(RECORDED / f"{study}.jsonl.gz")
    states = {store.state(cell) for cell in load_study(ROOT / "configs" / f"study_{study}.yaml")}
    assert states == {"done"} and not store.folder.exists()


def test_a_fresh_clone_is_small():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone")
    sizes = {name: (ROOT / name).stat().st_size for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    largest = sorted(sizes, key=sizes.__getitem__)[-5:]
    assert sum(sizes.values()) < LIMIT, f"Pictures and reports are drawn, not committed; the largest files: {largest}"
