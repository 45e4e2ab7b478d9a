"""Training by recipes: resumable, on one machine or many. Lightning loads when a name is first used."""

from typing import Any

from dynamick.discovery import home_of

_HOME = {
    "Classifier": "dynamick.training.module",
    "DissectEvery": "dynamick.training.dissecting",
    "DataRecipe": "dynamick.training.recipe",
    "Images": "dynamick.training.data",
    "OptimRecipe": "dynamick.training.recipe",
    "Pruned": "dynamick.training.pruning",
    "Readable": "dynamick.training.readable",
    "Recipe": "dynamick.training.recipe",
    "load_images": "dynamick.training.data",
    "prune": "dynamick.training.pruning",
    "read_history": "dynamick.training.callbacks",
    "train": "dynamick.training.run",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    return home_of(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
