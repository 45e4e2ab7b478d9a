"""Any network opened: this project's files, torchvision's, timm's, or what a user's function returns."""

import importlib
from typing import Any

_HOME = {
    "OpenNetwork": "dynamick.networks.network",
    "Source": "dynamick.networks.source",
    "load": "dynamick.networks.saving",
    "new_network": "dynamick.networks.opening",
    "open_network": "dynamick.networks.opening",
    "read_config": "dynamick.networks.saving",
    "save": "dynamick.networks.saving",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dynamick.networks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
