"""Files that are either complete or absent: everything is written beside its place and moved there in one step."""

import gzip
import json
import os
import platform
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rl_crop.core.errors import PruningError

TEMPORARY = ".tmp-"
"""How the names of temporary folders begin."""


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """
    Create or replace a file in one step: readers see the old content or the new one, never a part of it.

    :param path: the file to write; missing parent folders are created
    :param write: called with a temporary path of the same suffix in the same folder, which it must fill
    :return: the path written
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own: some writers (``model.save``, ``np.savez``) pick the file name by its suffix.
    with temporary_folder(path.parent) as folder:
        temporary = Path(folder) / path.name
        write(temporary)
        os.replace(temporary, path)
    return path


def temporary_folder(parent: Path | None, prefix: str = TEMPORARY) -> "tempfile.TemporaryDirectory[str]":
    """
    :param parent: where it is made; the system's place for such folders where it is ``None``
    :param prefix: of its name, which says what process it is of
    :return: a folder that goes with its context
    """
    return tempfile.TemporaryDirectory(prefix=f"{prefix}{platform.node()}-{os.getpid()}-", dir=parent)


def remove_abandoned(folder: Path, prefix: str = TEMPORARY) -> None:
    """
    Remove temporary folders of processes of this machine that have been killed.

    :param folder: where they are
    :param prefix: of their names
    """
    for path in folder.glob(f"{prefix}{platform.node()}-*"):
        pid = path.name.removeprefix(f"{prefix}{platform.node()}-").split("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user
    return True


def write_text(path: str | Path, text: str) -> Path:
    """
    Write a text file atomically.

    :param path: the file to write
    :param text: its content
    :return: the path written
    """
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, data: Any) -> Path:
    """
    Write a JSON file atomically. Arrays and numbers of numpy become lists and plain numbers.

    :param path: the file to write
    :param data: what to write
    :return: the path written
    """
    return write_text(path, json.dumps(data, indent=2, default=plain) + "\n")


def read_json(path: str | Path) -> Any:
    """
    Read a JSON file.

    :param path: the file to read
    :return: its content
    """
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_lines(path: str | Path, records: Iterable[Any]) -> Path:
    """
    Write a compressed file of JSON lines atomically. The same records always give the same bytes.

    :param path: the file to write, ending in ``.jsonl.gz``
    :param records: what to write, one line each
    :return: the path written
    """
    text = "".join(json.dumps(record, separators=(",", ":"), default=plain) + "\n" for record in records)
    return write_atomically(path, lambda temporary: temporary.write_bytes(gzip.compress(text.encode(), mtime=0)))


def read_lines(path: str | Path) -> list[Any]:
    """
    Read a compressed file of JSON lines.

    :param path: the file to read
    :return: its records
    :raises PruningError: the file is damaged
    """
    try:
        return [json.loads(line) for line in gzip.decompress(Path(path).read_bytes()).splitlines()]
    except (OSError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise PruningError(f"{path} is damaged ({error}): restore it, or delete it and make it again") from None


def plain(value: Any) -> Any:
    """
    Turn a value that JSON does not know into one that it knows.

    :param value: an array or scalar of numpy or torch, a path, a tuple or a set
    :return: lists, numbers or strings
    """
    if hasattr(value, "tolist"):  # numpy and torch, arrays and scalars
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_arrays(path: str | Path, **arrays: Any) -> Path:
    """
    Write an ``.npz`` file atomically.

    :param path: the file to write, ending in ``.npz``
    :param arrays: the arrays by name
    :return: the path written
    """
    return write_atomically(path, lambda temporary: np.savez(temporary, **arrays))
