"""Means and deviations over seeds, and Markdown tables of them."""

import statistics
from collections.abc import Iterable, Sequence


def spread(values: Sequence[float], places: int) -> str:
    """Mean ± deviation, or the one value."""
    mean = f"{statistics.fmean(values):.{places}f}"
    return f"{mean} ± {statistics.stdev(values):.{places}f}" if len(values) > 1 else mean


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
