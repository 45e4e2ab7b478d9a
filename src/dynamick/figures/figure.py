"""What a figure of the paper is, and how it is found: each is a file in `paper/` and has the name of its file."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dynamick.errors import InputError
from dynamick.figures.page import Page
from dynamick.figures.paper import names
from dynamick.figures.runs import Run


@dataclass(frozen=True)
class Material:
    """What a figure is made from.

    Attributes:
        runs: finished trainings, with their `units` if the figure needs dissections.
        seeds: how many networks are trained by a figure that trains its own.
        dissections: the folder that holds RUN/tally.csv of each run.
        concepts: images with label maps.
        seen: on what the runs were dissected, in words.
    """

    runs: Sequence[Run] = ()
    seeds: int = 3
    dissections: Path | None = None
    concepts: Path | None = None
    seen: str = ""


@dataclass(frozen=True)
class PaperFigure:
    """A table or figure of the paper.

    Attributes:
        title: the first line of its page.
        make: computes its rows, compares them with the paper's, and draws them.
        needs: its trainings: for each recipe's name the models' suffixes, such as `-d5a` (the recipe's own depth comes before
            them), or whole names. Empty: the figure reads no runs and trains networks of its own.
        trained_on: the kinds of data that its runs may be trained on; empty for any.
        dissected: whether it needs the dissections of its runs.
        uses_concepts: whether it learns concepts on the images with label maps, so that its page names these.
        scored: whether its own trainings measure their networks' scores while they train.
        name: that of its file.

    >>> dk.figures.PaperFigure("My figure", make=lambda material: dk.figures.Page([], [], [], "")).dissected
    False
    """

    title: str
    make: Callable[[Material], Page]
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    trained_on: tuple[str, ...] = ()
    dissected: bool = False
    uses_concepts: bool = False
    scored: bool = False
    name: str = ""

    def page(self, material: Material, failed: Sequence[str] = ()) -> Page:
        """Its page; `failed` has a line for each training that failed."""
        made = self.make(material)
        return replace(made, name=self.name, title=self.title, failed=tuple(failed))


def find(name: str) -> PaperFigure:
    """A figure by its name.

    Raises:
        InputError: there is none of that name.

    >>> dk.figures.find("table1").name
    'table1'
    """
    if name not in names():
        raise InputError(f"reproduce {name}: no such figure; give {', '.join(names())}")
    figure: PaperFigure = importlib.import_module(f"dynamick.figures.paper.{name}").FIGURE
    return replace(figure, name=name)
