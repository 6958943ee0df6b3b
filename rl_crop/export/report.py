"""What an export wrote, and how far the file is from the policy."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rl_crop.core.pruning.report import table


@dataclass(frozen=True)
class ExportReport:
    """
    The result of :func:`rl_crop.export_actor`.

    :param path: the file
    :param n_bytes: its size
    :param inputs: by name, shape (``batch`` first, where the file takes batches) and type
    :param outputs: the same
    :param folded: the wrappers of the environment whose work the file does
    :param n_observations: how many it was compared on
    :param origin: where they are from, in words
    :param largest_difference: between the file and ``predict``, over actions and states; absolute, or relative where the
        action is clipped to bounds and larger than 1, or half its range is (squashed policies). 0 where discrete actions
        agree. ``None`` where the file could not be run
    :param n_ties: discrete actions that differ because two scores are as good as equal
    :param notes: what the user should know
    """

    path: Path
    n_bytes: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    folded: tuple[str, ...]
    n_observations: int
    origin: str
    largest_difference: float | None
    n_ties: int = 0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """:return: a JSON-ready dictionary."""
        return asdict(self) | {"path": str(self.path), "folded": list(self.folded), "notes": list(self.notes)}

    def __str__(self) -> str:
        found = self.largest_difference
        difference = "not compared" if found is None else f"{found:.1e}" if found else "none"
        ties = f", {self.n_ties} ties" if self.n_ties else ""
        rows = [
            ["size", f"{self.n_bytes:,} bytes"],
            *([f"input {name}", text] for name, text in self.inputs.items()),
            *([f"output {name}", text] for name, text in self.outputs.items()),
            ["folded in", ", ".join(self.folded) or "nothing"],
            ["largest difference from predict", f"{difference}{ties}"],
            ["compared on", f"{self.n_observations} observations of {self.origin}"],
        ]
        return "\n".join([table([str(self.path), ""], rows, n_left=2), *(f"note: {note}" for note in self.notes)])
