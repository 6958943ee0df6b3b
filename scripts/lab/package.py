"""
Build the source distribution and the wheel, and check what is in them. `make dist` runs it.

Example::

    python scripts/lab/package.py --out dist
"""

import importlib.util
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import tyro

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta as b; out = sys.argv[1]; b.build_sdist(out); b.build_wheel(out)"
"""Building changes the command line of its process, so the folder is read first."""
LARGEST = 450_000
"""Bytes of the wheel, of which nearly half are the core. It only guards against what does not belong there."""
IN_SOURCE = ("CHANGELOG.md", "CITATION.cff", "docs/study.md", "configs/ppo_cartpole.yaml", "scripts/demo.py", "Makefile")
"""What a source distribution has beside the packages, among others."""


@dataclass(frozen=True)
class Args:
    out: Path = Path("dist")
    """The folder for both."""


def tracked() -> list[str]:
    """:return: the files that git knows, so that nothing else gets in"""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    return listed.stdout.splitlines()


def faults(sdist: Path, wheel: Path) -> list[str]:
    """:return: what is wrong with the two, in words"""
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    with ZipFile(wheel) as archive:
        installed = archive.namelist()
        [metadata] = [archive.read(name) for name in installed if name.endswith(".dist-info/METADATA")]
    fields = message_from_bytes(metadata)
    found = [f"{sdist.name} lacks {name}" for name in IN_SOURCE if name not in source]
    found += [f"{sdist.name} holds {name}" for name in sorted(source) if name.startswith("tests/")]
    packages = {name.split("/")[0] for name in installed if ".dist-info/" not in name}
    found += [f"{wheel.name} holds {name}" for name in sorted(packages - {"rl_crop", "rl_crop_envs"})]
    if wheel.stat().st_size > LARGEST:
        found.append(f"{wheel.name} has {wheel.stat().st_size:,} bytes, more than {LARGEST:,}")
    if fields["Version"] not in wheel.name or not fields.get_all("Classifier") or fields["License-Expression"] != "MIT":
        found.append("version, classifiers or licence are missing")
    return found


def main(args: Args) -> None:
    """
    Build, check, and say what was built.

    :param args: the arguments
    """
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in tracked():
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
        out = str(args.out.resolve())
        subprocess.run([sys.executable, "-c", BUILD, out], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    [sdist], [wheel] = sorted(args.out.glob("*.tar.gz"))[-1:], sorted(args.out.glob("*.whl"))[-1:]
    wrong = faults(sdist, wheel)
    if importlib.util.find_spec("twine"):
        check = [sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)]
        wrong += [] if subprocess.run(check).returncode == 0 else ["twine found something"]
    else:
        print("twine is not installed: its check was left out")
    for path in (sdist, wheel):
        print(f"{path}: {path.stat().st_size:,} bytes")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
