"""Result files one by one: whether they can be read, and what of them is needed before they are used."""

import contextlib
import os
import warnings
from functools import cache
from pathlib import Path

from rl_crop.files import read_json

DAMAGED = ".damaged"
"""How the name of a result ends that could not be read."""


def readable(path: Path) -> bool:
    """
    :param path: where a result would be
    :return: whether there is one. What is damaged is set aside, and a warning names it, so that its cell is run again.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    wrong = _damage(path, status.st_mtime_ns, status.st_size)
    if wrong is None:
        return True
    aside = path.with_name(path.name + DAMAGED)
    with contextlib.suppress(FileNotFoundError):  # another sweep has done it
        os.replace(path, aside)
        warnings.warn(f"{path} is damaged ({wrong}): it is set aside as {aside.name}, and counts as not run.", stacklevel=2)
    return False


@cache  # what a cell ended with does not change
def _damage(path: Path, *version: int) -> str | None:
    try:
        result = read_json(path)
        float(result["final"]["mean"])
        str(result["task"]), dict(result["seconds"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None
