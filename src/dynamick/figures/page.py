"""A figure's page: its numbers as JSON, its drawing as SVG, and Markdown that shows both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dynamick.dissection.plots import svg
from dynamick.figures.averages import Row, spread
from dynamick.files import write_atomically, write_json


@dataclass(frozen=True)
class Page:
    """What a figure says.

    Attributes:
        rows: its numbers, as plain values.
        verdicts: the paper's sentences, each with what was found.
        intro: paragraphs above the table.
        table: as `table` makes it.
        drawing: None for a table of the paper.
        note: what the drawing shows.
        about: what else the JSON holds, such as the sizes.
        failed: a line for each training that failed.
        name, title: the figure's.

    >>> page = dk.figures.Page([{"top1": 83.06}], ["about the same"], ["Measured on one machine."], "| top-1 |")
    >>> page.rows[0]["top1"]
    83.06
    """

    rows: list[Row]
    verdicts: list[str]
    intro: Sequence[str]
    table: str
    drawing: Figure | None = None
    note: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    failed: Sequence[str] = ()
    name: str = ""
    title: str = ""

    def markdown(self) -> str:
        """The page as text."""
        said = "\n".join(f"- {verdict}" for verdict in self._said())
        picture = f"![{self.name}]({self.name}.svg)" if self.drawing else ""
        parts = [f"# {self.title}", *self.intro, self.table, said]
        return "\n\n".join([*parts, *filter(None, (self.note, picture))]) + "\n"

    def write(self, folder: Path) -> None:
        """Write NAME.json, NAME.svg and NAME.md into a folder, which is made where it is missing.

        Raises:
            OSError: a file cannot be written; an old one of its name is as it was.
        """
        folder.mkdir(parents=True, exist_ok=True)
        drawn = None if self.drawing is None else svg(self.drawing)
        write_json(folder / f"{self.name}.json", {"rows": self.rows, "verdicts": self._said(), **self.about})
        if drawn is not None:
            write_atomically(folder / f"{self.name}.svg", drawn)
        # The page is written last: if it is there, everything is there.
        write_atomically(folder / f"{self.name}.md", self.markdown().encode())

    def _said(self) -> list[str]:
        return [*self.verdicts, *self.failed]


def table(columns: Mapping[str, Callable[[Row], Any]], rows: Sequence[Row]) -> str:
    """A Markdown table: for each column its title, and what it says of a row."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(str(cell(row)) for cell in columns.values())} |" for row in rows]
    return "\n".join(lines)


def cells(*names: str) -> dict[str, Callable[[Row], Any]]:
    """Columns of a table that show values as they are, under their names."""
    return {name: itemgetter(name) for name in names}


def spreads(columns: Mapping[str, tuple[str, int]], **options: Any) -> dict[str, Callable[[Row], Any]]:
    """Columns of numbers with their deviations.

    Args:
        columns: for each number's name the column's title, and how many digits are shown.
        options: further ones of `dynamick.figures.averages.spread`.
    """
    return {title: partial(spread, name=name, digits=digits, **options) for name, (title, digits) in columns.items()}
