"""Labelled images: generated scenes, real sets, and Broden's format. Each name is imported when it is first used."""

import importlib
from typing import Any

_HOME = {
    "Augmentation": "dynamick.data.images",
    "Batches": "dynamick.data.images",
    "Broden": "dynamick.data.broden",
    "ComposedScenes": "dynamick.data.scenes",
    "ConceptFolder": "dynamick.data.folder",
    "FolderImages": "dynamick.data.images",
    "ImageTensors": "dynamick.data.images",
    "Label": "dynamick.data.concepts",
    "Sample": "dynamick.data.concepts",
    "check": "dynamick.data.checking",
    "cifar10": "dynamick.data.images",
    "image_folder": "dynamick.data.images",
    "open_concepts": "dynamick.data.checking",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dynamick.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
