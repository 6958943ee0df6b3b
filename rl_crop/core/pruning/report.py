"""What a pruning did: numbers for people (a table) and for files (a dictionary)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rl_crop.optional import require

NO_FASTER = "masked weights are stored and computed as zeros: masks alone make nothing faster or smaller"


@dataclass(frozen=True)
class PruningReport:
    """
    The result of one cut.

    :param n_params_before: parameters of the model before (target networks and masked weights not counted).
    :param n_params_after: and after.
    :param sparsity: share of the prunable parameters that is gone or masked, by network and in ``"total"``, whatever the
        budget.
    :param flops_before: floating-point operations of linear and convolution layers for one observation through
        every network once (a multiply-add is two); masked weights are not counted, although they are computed.
    :param flops_after: and after.
    :param widths: by producing layer, units (before, after); of masks by parameter, (elements, those kept).
    :param untouched: layers left whole, and why.
    :param seconds: wall-clock of planning and cutting.
    :param criterion: its name.
    :param compensation: its name.
    :param notes: what the user should know (a consumer without bias, a layer left with one unit).
    :param structured: whether units were removed, or single weights masked.
    """

    n_params_before: int
    n_params_after: int
    sparsity: dict[str, float]
    flops_before: int
    flops_after: int
    widths: dict[str, tuple[int, int]]
    untouched: dict[str, str]
    seconds: float
    criterion: str
    compensation: str
    notes: tuple[str, ...] = ()
    structured: bool = True

    def to_dict(self) -> dict[str, Any]:
        """:return: a JSON-ready dictionary."""
        plain = asdict(self)
        plain["widths"] = {name: list(pair) for name, pair in self.widths.items()}
        plain["notes"] = list(self.notes)
        return plain

    def plot(self, path: str | None = None) -> Any:
        """
        Draw how many units each layer had, and how many are left.

        :param path: where the picture is saved; its ending says in which format.
        :return: the figure of matplotlib.
        """
        places = range(len(self.widths))
        figure, axes = require("matplotlib.pyplot", "plots").subplots(figsize=(6.4, 1.2 + 0.35 * len(self.widths)))
        axes.barh(places, [before for before, _ in self.widths.values()], color="#d0d0d0", label="before")
        axes.barh(places, [after for _, after in self.widths.values()], color="#009E73", label="after")
        for place, (before, after) in zip(places, self.widths.values()):
            axes.annotate(f" {before} → {after}", (before, place), va="center", fontsize=8)
        axes.set_yticks(places, list(self.widths))
        axes.invert_yaxis()
        axes.set_xlabel("units" if self.structured else "elements")
        axes.set_title(f"{self.n_params_before:,} → {self.n_params_after:,} parameters", fontsize=10)
        axes.margins(x=0.15)
        axes.legend(loc="lower right", fontsize=8, frameon=False)
        if path is not None:
            figure.savefig(path, bbox_inches="tight")
        return figure

    def __str__(self) -> str:
        rows = [[name, str(before), str(after)] for name, (before, after) in self.widths.items()]
        header = ["layer", "units before", "after"] if self.structured else ["parameter", "elements", "kept"]
        lines = [table(header, rows), *summary_lines(self, self.structured)]
        lines += [f"left whole: {name} ({reason})" for name, reason in self.untouched.items()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def unit_notes(widths: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    """:return: a note for each layer that loses all units but one, of units (before, after) by layer."""
    single = [name for name, (before, after) in widths.items() if before > after == 1]
    return tuple(f"{name} keeps a single unit (min_units= keeps more; 0.5 is half of an equal share)" for name in single)


def mask_notes(counts: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    """:return: what the user of masks should know, of (elements, those kept) by parameter."""
    empty = (f"{name} keeps no weight: its layer's outputs are constant" for name, (_, kept) in counts.items() if not kept)
    return (NO_FASTER, *empty)


def summary_lines(result: Any, structured: bool = True) -> list[str]:
    """:return: parameters, FLOPs and sparsity side by side, for a plan or a report."""
    fate = "gone" if structured else "masked"
    gone = 1.0 - result.n_params_after / result.n_params_before if result.n_params_before else 0.0
    shares = ", ".join(f"{name} {share:.1%}" for name, share in result.sparsity.items() if name != "total")
    return [
        f"parameters {result.n_params_before:,} -> {result.n_params_after:,} ({gone:.1%} of all {fate}), "
        f"FLOPs per observation {result.flops_before:,} -> {result.flops_after:,}",
        f"sparsity (share of prunable parameters {fate}): {shares}, total {result.sparsity['total']:.1%}",
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], n_left: int = 1) -> str:
    """:return: a plain-text table, its first ``n_left`` columns to the left, the others (numbers) to the right."""
    lines = [header, *rows]
    sizes = [max(len(line[place]) for line in lines) for place in range(len(header))]
    texts = [
        "  ".join(f"{cell:{'<' if place < n_left else '>'}{sizes[place]}}" for place, cell in enumerate(line))
        for line in lines
    ]
    return "\n".join(text.rstrip() for text in [texts[0], "-" * len(texts[0]), *texts[1:]])
