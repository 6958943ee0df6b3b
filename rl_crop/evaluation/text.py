"""How numbers are written for people."""

from collections.abc import Sequence


def number(value: float) -> str:
    """:return: three significant digits, and all digits before the decimal point: ``"-1234"``, ``"21.0"``, ``"-0.0163"``"""
    if abs(value) >= 99.95:  # what three digits round to 100 would end in a bare point
        return f"{value:.0f}"
    return f"{value:#.3g}" if value else "0.0"


def extent(values: Sequence[int]) -> str:
    """:return: the smallest and the largest number, for example ``"1,021–1,183"``, or the only one"""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def share(value: float) -> str:
    """:return: a share as text, for example ``"5 %"``"""
    return f"{100 * value:.0f} %"
