"""Numbers of several runs of one model: their mean and deviation, in a row and as text."""

from collections.abc import Sequence
from statistics import mean, median, stdev
from typing import Any

Row = dict[str, Any]
"""One line of a figure's numbers, as plain values; a deviation's name ends in `_std`."""


def averaged(name: str, values: Sequence[float | None]) -> Row:
    """A number's mean and deviation (`_std`) over runs; None if one run has none, because all runs must count."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {name: None, f"{name}_std": None}
    return {name: mean(known), f"{name}_std": stdev(known) if len(known) > 1 else None}


def means(runs: Sequence[Row]) -> Row:
    """All numbers of some runs, each with its mean and deviation; every run has the same ones."""
    row: Row = {}
    for name in runs[0]:
        row |= averaged(name, [each[name] for each in runs])
    return row


def median_of(values: Sequence[float]) -> float | None:
    """The median; None if there is no number."""
    return float(median(values)) if values else None


def spread(row: Row, name: str, digits: int, factor: float = 1, none: str = "none") -> str:
    """A number and its deviation as text, such as `83.50 ± 0.71`; `none` if there is none."""
    if row[name] is None:
        return none
    deviation = row[f"{name}_std"]
    return f"{factor * row[name]:.{digits}f}" + ("" if deviation is None else f" ± {factor * deviation:.{digits}f}")


def verdict(holds: bool) -> str:
    """Whether a sentence of the paper holds, in a word."""
    return "holds" if holds else "fails"


def rank(k: int | None, head: str, label: str) -> tuple[bool, int, str]:
    """Orders models: from the smallest K up, then L1, then dense."""
    return k is None, k or int(head == "dense"), label
