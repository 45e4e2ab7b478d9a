"""The units of a dissection, one row each, as tally.csv and JSON hold them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple


class Match(NamedTuple):
    """A unit's best concept of one category, in pixels: |concept|, |mask| over the category, and what both share."""

    label: str
    truth: float
    activation: float
    intersect: float
    iou: float


NOTHING = Match("", 0.0, 0.0, 0.0, 0.0)


class Row(NamedTuple):
    """A unit of tally.csv: its number from 1 up, its best concept, and the best of each category (or `NOTHING`)."""

    unit: int
    category: str
    label: str
    score: float
    matches: tuple[Match, ...]


def row_of_cells(cells: Sequence[str], width: int) -> Row:
    """A line of tally.csv.

    Args:
        cells: the line's.
        width: how many cells the first line has.

    Raises:
        ValueError: the message says what is wrong.
    """
    if len(cells) != width:
        raise ValueError(f"{len(cells)} cells; the first line has {width}")
    matches = [Match(cells[i], *(float(cell) for cell in cells[i + 1 : i + 5])) for i in range(4, width, 5)]
    return _checked(Row(int(cells[0]), cells[1], cells[2], float(cells[3]), tuple(matches)))


def rows_of_values(values: Sequence[Any], categories: int) -> list[Row]:
    """The rows that a JSON holds.

    Args:
        values: one a unit.
        categories: how many matches each has.

    Raises:
        ValueError, TypeError: they are no rows.
    """
    rows = []
    for number, category, label, score, matches in values:
        row = Row(number, category, label, score, tuple(Match(*match) for match in matches))
        if len(row.matches) != categories:
            raise ValueError(f"unit {row.unit}: {len(row.matches)} matches; there are {categories} categories")
        rows.append(_checked(row))
    if {(type(row.unit), row.unit) for row in rows} != {(int, unit) for unit in range(1, len(rows) + 1)}:
        raise ValueError(f"units must be 1 to {len(rows)}, each once")
    return rows


def _checked(row: Row) -> Row:
    names = (row.category, row.label, *(match.label for match in row.matches))
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"unit {row.unit}: a name is no text")
    for number in (row.score, *(number for match in row.matches for number in match[1:])):
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number) or number < 0:
            raise ValueError(f"unit {row.unit}: {number!r} must be a number from 0 up")
    if row.score > 1:
        raise ValueError(f"unit {row.unit}: a score of {row.score} must be in 0..1")
    return row
