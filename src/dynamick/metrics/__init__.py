"""What is measured beside accuracy: sparsity, routing, simulability; functional `_start`/`_update`/`_compute`."""

from dynamick.metrics.routing import RoutingCounts, routing_compute, routing_start, routing_update
from dynamick.metrics.simulability import (
    ReaderState,
    simulability_compute,
    simulability_update,
)
from dynamick.metrics.sparsity import THRESHOLD, Sparsity, sparsity

__all__ = [
    "THRESHOLD",
    "ReaderState",
    "RoutingCounts",
    "Sparsity",
    "routing_compute",
    "routing_start",
    "routing_update",
    "simulability_compute",
    "simulability_update",
    "sparsity",
]
