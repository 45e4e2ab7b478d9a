"""Sparse heads compared on cached features: what a user loses and gains with each. Names are imported when first used."""

import importlib
from typing import Any

# torchmetrics imports torchvision, which must be imported through the shim first.
import dynamick.torchvision_shim  # noqa: F401

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
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dynamick.comparison' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
