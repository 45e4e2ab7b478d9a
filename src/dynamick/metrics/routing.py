"""How many units a head sums for each input, and which it never uses: a running count over batches."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class RoutingCounts(NamedTuple):
    """Sums over inputs; those of several processes add up.

    Attributes:
        summed: number of (input, class, unit) triples that are summed, scalar.
        rows: number of (input, class) pairs, scalar.
        used: how often each weight is used, shape (O, M).

    >>> counts = dk.metrics.routing_start(torch.ones(2, 3))
    >>> counts.summed.item(), counts.rows.item(), counts.used.shape
    (0, 0, torch.Size([2, 3]))
    """

    summed: Tensor
    rows: Tensor
    used: Tensor


def routing_start(weight: Tensor) -> RoutingCounts:
    """Nothing counted yet, for a head's weight of shape (O, M).

    >>> dk.metrics.routing_start(torch.ones(2, 3)).used.tolist()
    [[0, 0, 0], [0, 0, 0]]
    """
    zero = torch.zeros((), dtype=torch.int64, device=weight.device)
    return RoutingCounts(zero, zero.clone(), torch.zeros(weight.shape, dtype=torch.int64, device=weight.device))


def routing_update(counts: RoutingCounts, features: Tensor, head: Any) -> RoutingCounts:
    """Count a batch of features, shape (B, M), that enter a head.

    A Dynamic-K head uses what it routes; any other linear head uses every product that is not zero.

    >>> head = torch.nn.Linear(3, 2)
    >>> _ = torch.nn.init.ones_(head.weight)
    >>> dk.metrics.routing_update(dk.metrics.routing_start(head.weight), torch.tensor([[1.0, 2.0, 0.0]]), head).used.tolist()
    [[1, 1, 0], [1, 1, 0]]
    """
    weight = head.weight
    if hasattr(head, "route"):
        indices = head.route(features).indices
        flat = torch.arange(weight.shape[0], device=indices.device)[:, None] * weight.shape[1] + indices
        used = torch.bincount(flat[indices >= 0], minlength=weight.numel()).view(weight.shape)
    else:
        used = (features != 0).sum(0) * (weight != 0)
    return RoutingCounts(counts.summed + used.sum(), counts.rows + len(features) * weight.shape[0], counts.used + used)


def routing_compute(counts: RoutingCounts) -> tuple[float, int]:
    """Units summed per input and class, and the number of dead units: those that no class uses for any input.

    >>> head = dk.DynamicLinear(3, 2, k=1)
    >>> _ = torch.nn.init.ones_(head.weight)
    >>> counts = dk.metrics.routing_update(dk.metrics.routing_start(head.weight), torch.tensor([[1.0, 2.0, 0.0]]), head)
    >>> dk.metrics.routing_compute(counts)  # both classes use the second unit
    (1.0, 2)
    """
    return counts.summed.item() / max(1, int(counts.rows)), int((counts.used.sum(0) == 0).sum())
