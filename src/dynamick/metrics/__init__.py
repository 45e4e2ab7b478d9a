"""What is measured beside accuracy: sparsity, routing, simulability; as functions, and as torchmetrics."""

from typing import Any

from dynamick.discovery import home_of
from dynamick.metrics.routing import RoutingCounts, routing_compute, routing_start, routing_update
from dynamick.metrics.simulability import (
    ReaderState,
    simulability_compute,
    simulability_update,
)
from dynamick.metrics.sparsity import THRESHOLD, HeadSparsity, sparsity

_HOME = dict.fromkeys(("DeadUnits", "RoutedUnits", "Sparsity"), "dynamick.metrics.modules")
"""Imported when they are first used, for torchmetrics takes its time."""

__all__ = [
    "THRESHOLD",
    "DeadUnits",
    "HeadSparsity",
    "ReaderState",
    "RoutedUnits",
    "RoutingCounts",
    "Sparsity",
    "routing_compute",
    "routing_start",
    "routing_update",
    "simulability_compute",
    "simulability_update",
    "sparsity",
]


def __getattr__(name: str) -> Any:
    return home_of(__name__, _HOME, name)
