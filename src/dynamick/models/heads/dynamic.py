"""`res18-d5a`: the paper's head. A class sums the at most K products that speak most for it ("a": thresholds activations)."""

from typing import Any

from torch import nn

from dynamick.models.heads.trained import Routing, TrainedHead
from dynamick.nn import DynamicConv2d, DynamicLinear


def layer(inputs: int, classes: int, k: int | None, rule: str) -> nn.Module:
    """A DynamicLinear."""
    assert k is not None
    return DynamicLinear(inputs, classes, k, rule=rule)


def holds(layer: nn.Module) -> bool:
    """A 1x1 convolution may stand in a network's head too."""
    return isinstance(layer, DynamicConv2d) or (isinstance(layer, DynamicLinear) and layer.threshold == "activations")


def routing(layer: Any) -> Routing:
    """Its K, its rule and its mask."""
    return Routing(layer.k, layer.rule, layer.mask)


HEAD = TrainedHead("dynamic", "d{k}a", layer, holds, label="d{k}", routing=routing, routes=True)
