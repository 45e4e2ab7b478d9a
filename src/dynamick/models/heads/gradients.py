"""`res18-d5g`: a head that sums all products, but gives a gradient only to the weights of the K largest ("g")."""

from typing import Any

from torch import nn

from dynamick.models.heads.trained import Routing, TrainedHead
from dynamick.nn import DynamicLinear


def layer(inputs: int, classes: int, k: int | None, rule: str) -> nn.Module:
    """A DynamicLinear that thresholds gradients."""
    assert k is not None
    return DynamicLinear(inputs, classes, k, rule=rule, threshold="gradients")


def holds(layer: nn.Module) -> bool:
    """Whether it is such a DynamicLinear."""
    return isinstance(layer, DynamicLinear) and layer.threshold == "gradients"


def routing(layer: Any) -> Routing:
    """All products but those of pruned weights: that of a dense head."""
    return Routing(mask=layer.mask)


HEAD = TrainedHead("gradients", "d{k}g", layer, holds, label="gradients", routing=routing)
