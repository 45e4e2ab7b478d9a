"""The paper's tables and figures, made from trainings: one file each in `paper/`. Names are imported when first used."""

from typing import Any

from dynamick.discovery import home_of

_HOME = {
    "Page": "dynamick.figures.page",
    "PaperFigure": "dynamick.figures.figure",
    "Run": "dynamick.figures.runs",
    "find": "dynamick.figures.figure",
    "names": "dynamick.figures.paper",
    "read_run": "dynamick.figures.runs",
    "reproduce": "dynamick.figures.reproducing",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    return home_of(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
