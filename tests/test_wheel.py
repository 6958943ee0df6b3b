"""What a wheel brings: the package and its environments, and nothing of what measures this project."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building leaves files where it builds
    for name in ("rl_crop", "envs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=source, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_it_holds_the_package_and_its_environments(wheel):
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"rl_crop", "rl_crop_envs"}
    rooms = {name.split("/")[1] for name in names if name.count("/") > 1}
    assert rooms == {"core", "evaluation", "export", "sb3", "supervised"}
    assert {"rl_crop/py.typed", "rl_crop/evaluation/report/page.html"} < set(names)


def test_nothing_in_it_needs_what_it_leaves_out(wheel):
    with ZipFile(wheel) as archive:
        for name in archive.namelist():
            text = archive.read(name).decode() if name.endswith(".py") else ""
            assert not re.search(r"^\s*(from|import) (lab|scripts|tests)\b", text, flags=re.MULTILINE), name
