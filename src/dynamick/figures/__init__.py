"""The paper's tables and figures, made from trainings: one file each in `paper/`. Names are imported when first used."""

import importlib
from typing import Any

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
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dynamick.figures' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
