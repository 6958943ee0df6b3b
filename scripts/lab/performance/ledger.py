"""Rows of a benchmark in one file, which is whole after every row, so that an interrupted benchmark goes on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.performance.machine import is_busy, load_average
from rl_crop.core.errors import PruningError
from rl_crop.files import read_json, write_json

Row = dict[str, Any]


class Ledger:
    """
    :param path: the file, or ``None`` to keep the rows in memory alone
    :param facts: what all rows of a file share: machine and settings
    :param own_load: processors that the benchmark itself keeps busy
    :param fresh: whether what the file holds is forgotten
    :raises PruningError: the file holds rows of another machine or of other versions or settings
    """

    def __init__(self, path: Path | None, facts: Mapping[str, Any], own_load: float = 1.0, fresh: bool = False) -> None:
        self.path, self.facts, self.own_load = path, dict(facts), own_load
        self.rows: list[Row] = []
        if path is not None and path.exists() and not fresh:
            held = read_json(path)
            if any(held.get(name) != value for name, value in self.facts.items()):
                raise PruningError(
                    f"{path} was measured on another machine, or with other versions or settings: rows of two do not compare; "
                    "name another file with --out, or measure anew with --fresh."
                )
            self.rows = held["rows"]

    def row(self, identity: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> Row:
        """
        :param identity: what tells the row from all others
        :param measure: measures it
        :return: the row, from the file where it is there already
        """
        for row in self.rows:
            if all(key in row and row[key] == value for key, value in identity.items()):
                return row
        row = {**identity, **measure()}
        load = load_average()
        row["busy"] = is_busy(load, self.own_load)
        self.rows.append(row)
        if self.path is not None:
            write_json(self.path, {"rows": self.rows, **self.facts})
        return row
