"""Files of results that experiments add to: one line of JSON a result, and what is there is not made again."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rl_crop.files import write_text


def kept_lines(path: Path) -> list[dict[str, Any]]:
    """:return: the results of a file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write results, one a line."""
    write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))
