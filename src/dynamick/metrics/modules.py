"""A head's sparsity and routing as torchmetrics, for a training loop of one's own."""

from typing import Any

# isort: split
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from dynamick.metrics.routing import RoutingCounts, routing_start, routing_update
from dynamick.metrics.sparsity import THRESHOLD, sparsity


class Sparsity(Metric):
    """Static weights a class: the mean number of a head's weights with |w| >= 1e-3 (docs/definitions.md, "Models and recipes").

    Args:
        threshold: a smaller weight, in absolute value, does not count.

    Example:
        >>> head = torch.nn.Linear(3, 2)
        >>> _ = head.weight.data.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 1e-5]]))
        >>> metric = Sparsity()
        >>> metric.update(head)
        >>> metric.compute().item()
        1.0
    """

    full_state_update = False
    value: Tensor

    def __init__(self, threshold: float = THRESHOLD, **options: Any) -> None:
        super().__init__(**options)
        self.threshold = threshold
        # Every process has the same head.
        self.add_state("value", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="mean")

    def update(self, head: nn.Module) -> None:
        """Take a head's weight as it is now, shape (classes, inputs)."""
        found = sparsity(head.get_parameter("weight"), self.threshold)
        self.value = torch.tensor(found.weights_per_class, dtype=torch.float64, device=self.value.device)

    def compute(self) -> Tensor:
        """Weights a class, scalar."""
        return self.value


class _Routing(Metric):
    """A running count over batches of what a head sums.

    Args:
        head: of so many classes and inputs, for its weight's shape.
    """

    full_state_update = False
    summed: Tensor
    rows: Tensor
    used: Tensor

    def __init__(self, head: nn.Module, **options: Any) -> None:
        super().__init__(**options)
        for name, zero in routing_start(head.get_parameter("weight"))._asdict().items():
            self.add_state(name, zero, dist_reduce_fx="sum")

    def update(self, features: Tensor, head: nn.Module) -> None:
        """Count a batch of features, shape (B, inputs), that enter the head."""
        counts = RoutingCounts(self.summed, self.rows, self.used)
        self.summed, self.rows, self.used = routing_update(counts, features.detach(), head)


class RoutedUnits(_Routing):
    """How many units a class sums for an input, in the mean.

    Example:
        >>> import dynamick as dk
        >>> head = dk.DynamicLinear(4, 2, k=2)
        >>> _ = head.weight.data.fill_(1)
        >>> metric = RoutedUnits(head)
        >>> metric.update(torch.rand(3, 4) + 1, head)
        >>> metric.compute().item()
        2.0
    """

    def compute(self) -> Tensor:
        """Units for an input and class, scalar."""
        return self.summed.double() / self.rows.clamp(min=1)


class DeadUnits(_Routing):
    """How many units no class sums for any input.

    Example:
        >>> import dynamick as dk
        >>> head = dk.DynamicLinear(4, 2, k=2)
        >>> _ = head.weight.data.copy_(torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0]]))
        >>> metric = DeadUnits(head)
        >>> metric.update(torch.rand(3, 4) + 1, head)
        >>> metric.compute().item()
        2
    """

    def compute(self) -> Tensor:
        """Their number, scalar."""
        return (self.used.sum(0) == 0).sum()
