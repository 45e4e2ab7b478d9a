"""Network Dissection: which concept does each unit of a layer see? Each name is imported when it is first used."""

import importlib
from typing import Any

_HOME = {
    "Dissection": "dynamick.dissection.result",
    "TopValues": "dynamick.dissection.thresholds",
    "Counts": "dynamick.dissection.counting",
    "capture": "dynamick.dissection.activations",
    "dissect": "dynamick.dissection.engine",
    "dissect_into": "dynamick.dissection.folder",
    "read_tally": "dynamick.dissection.result",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dynamick.dissection' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
