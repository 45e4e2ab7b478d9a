"""Any network opened: this project's files, torchvision's, timm's, or what a user's function returns."""

from typing import Any

from dynamick.discovery import home_of

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
    return home_of(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
