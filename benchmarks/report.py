"""Rows of figures, the verdict on each, and how they are shown.

Knows nothing of how a figure was measured.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Sequence

import msgspec


class Row(msgspec.Struct, kw_only=True):
    """One measured thing; `verdict` is None where the project promises nothing."""

    name: str
    figures: dict[str, float | str]
    unit: str
    target: str | None = None
    verdict: str | None = None


def verdict(ok: bool) -> str:
    return "pass" if ok else "miss"


def median_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Return the median of the ratios round by round, so that a slow round hits both sides."""
    return statistics.median(value / by for value, by in zip(values, base, strict=True))


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(rows: Iterable[Row]) -> str:
    """Return the rows as aligned lines, figures in the order they were given."""
    lines = [("benchmark", "figures", "target", "verdict")]
    for row in rows:
        figures = "  ".join(f"{key} {_shown(value)}" for key, value in row.figures.items())
        lines.append((row.name, f"{figures}  [{row.unit}]", row.target or "", row.verdict or ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
