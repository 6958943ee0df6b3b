"""The house: imports run one way, in no circle, and no file is too long to be read at once."""

import ast
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parents[1]
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "rl_crop").rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}
LONGEST = 330
BELOW = {
    "rl_crop.core": ("rl_crop.core", "rl_crop.optional"),
    "rl_crop.sb3": ("rl_crop.core", "rl_crop.sb3", "rl_crop.optional"),
    "rl_crop.supervised": ("rl_crop.core", "rl_crop.supervised", "rl_crop.optional", "rl_crop.files"),
    "rl_crop.export": ("rl_crop.core", "rl_crop.sb3", "rl_crop.export", "rl_crop.optional", "rl_crop.files"),
}
"""By room, what it may import of the package."""


def imported(path):
    """Modules of the package that a file names in an import, wherever it stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rl_crop"):
            whole = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= whole or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("rl_crop.")}
    return found & MODULES.keys()


def test_imports_run_in_no_circle():
    graph = networkx.DiGraph((name, other) for name, path in MODULES.items() for other in imported(path))
    assert not list(networkx.simple_cycles(graph))


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_nothing_above_it(room):
    inside = {name: path for name, path in MODULES.items() if name == room or name.startswith(f"{room}.")}
    allowed = BELOW[room]
    for name, path in inside.items():
        wrong = [other for other in imported(path) if not any(other == a or other.startswith(f"{a}.") for a in allowed)]
        assert not wrong, (name, wrong)


def test_core_knows_torch_alone():
    for name, path in MODULES.items():
        if name.startswith("rl_crop.core"):
            text = path.read_text()
            assert "stable_baselines3" not in text and "gymnasium" not in text, name


def test_files_can_be_read_at_once():
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


def test_every_file_says_what_it_is_for():
    assert not [
        name for name, path in MODULES.items() if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text()))
    ]
