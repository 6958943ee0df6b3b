"""What `make test-long` has more of than `make test`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def and_long(names: Iterable[Any], more: Iterable[Any]) -> list[Any]:
    """:return: cases of every run, and further ones of the long run."""
    return [*names, *(pytest.param(name, marks=pytest.mark.long) for name in more)]


def all_in_long(names: Collection[Any], always: Collection[Any]) -> list[Any]:
    """:return: all of these cases in the long run, and in every run those that are named."""
    return and_long((name for name in names if name in always), (name for name in names if name not in always))
