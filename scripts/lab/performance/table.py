"""Rows as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl_crop.core.pruning.report import table


@dataclass(frozen=True)
class Column:
    """
    :param header: its heading
    :param key: of the row
    :param form: how a number is written
    """

    header: str
    key: str
    form: str = ""

    def text(self, row: Mapping[str, Any]) -> str:
        """:return: the cell of a row, a dash where it has no value"""
        value = row.get(self.key)
        return "–" if value is None else format(value, self.form) if isinstance(value, (int, float)) else str(value)


SUBJECT = (
    Column("agent", "agent"),
    Column("width", "width"),
    Column("device", "device"),
    Column("sparsity", "sparsity", "g"),
)
"""What most rows begin with."""


def rows_table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    """
    :param columns: what is shown
    :param rows: of one part; a star marks what was measured while something else ran
    :return: plain text
    """
    lines = [[column.text(row) for column in columns] + (["*"] if row.get("busy") else [""]) for row in rows]
    return table([*(column.header for column in columns), ""], lines)
