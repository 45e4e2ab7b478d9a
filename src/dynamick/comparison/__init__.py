"""Sparse heads compared on cached features: what a user loses and gains with each. Names are imported when first used."""

from typing import Any

from dynamick.discovery import home_of

_HOME = {
    "Features": "dynamick.comparison.cache",
    "cache_features": "dynamick.comparison.cache",
    "open_features": "dynamick.comparison.cache",
    "HEADS": "dynamick.comparison.heads",
    "Fitted": "dynamick.comparison.heads",
    "Compared": "dynamick.comparison.comparing",
    "compare": "dynamick.comparison.comparing",
    "measure": "dynamick.comparison.measuring",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    return home_of(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
