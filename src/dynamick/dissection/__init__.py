"""Network Dissection: which concept does each unit of a layer see? Each name is imported when it is first used."""

from typing import Any

from dynamick.discovery import home_of

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
    return home_of(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
