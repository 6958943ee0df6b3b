"""What the extras promise: every package they bring is pinned, and Atari needs no download."""

import re
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from stable_baselines3.common.env_util import make_atari_env

ROOT = Path(__file__).parents[1]
EXTRAS = ("plots", "scripts", "envs", "contrib", "atari", "export", "zoo", "ray", "supervised", "benchmark", "docs")


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def brought(requirement):
    """What a requirement brings to this machine, itself included: pairs of name and version range."""
    queue, found = [(requirement, "")], set()
    while queue:
        text, extra = queue.pop()
        needed = Requirement(text)
        name = canonicalize_name(needed.name)
        if needed.marker and not needed.marker.evaluate({"extra": extra}):
            continue
        for own in ("", *needed.extras):
            if (name, own) in found:
                continue
            found.add((name, own))
            try:
                queue += [(line, own) for line in requires(name) or ()]
            except PackageNotFoundError:
                pytest.fail(f"{name} is not installed")
    return {name for name, _ in found}


def test_dev_has_every_extra(project):
    assert set(project["optional-dependencies"]) == {*EXTRAS, "dev"}
    named = {extra for line in project["optional-dependencies"]["dev"] for extra in Requirement(line).extras}
    assert named | {"plots"} == set(EXTRAS)  # scripts brings plots


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="constraints.txt is for Python 3.11")
def test_every_package_has_an_exact_version(project):
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines) and lines == sorted(lines, key=str.lower)
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines}
    direct = [line for group in (project["dependencies"], *project["optional-dependencies"].values()) for line in group]
    names = {name for line in direct if Requirement(line).name != project["name"] for name in brought(line)}
    of_cuda = {name for name in names if name.startswith(("nvidia", "cuda", "triton"))}
    assert names - of_cuda == pinned


def test_atari_games_come_with_the_package():
    gym.register_envs(ale_py)
    env = gym.make("ALE/Pong-v5")
    observation, _ = env.reset(seed=0)
    frames = [env.step(0)[0] for _ in range(60)]
    assert observation.shape == (210, 160, 3) and any(np.any(frame != observation) for frame in frames)


def test_stable_baselines3_can_wrap_atari():
    gym.register_envs(ale_py)
    envs = make_atari_env("PongNoFrameskip-v4", n_envs=2, seed=0)
    assert envs.reset().shape == (2, 84, 84, 1)
    envs.close()
