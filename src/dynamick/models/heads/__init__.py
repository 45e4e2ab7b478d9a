"""The heads that train, one file each. A file that has a `HEAD` is found by itself."""

from torch import nn

from dynamick.discovery import modules_in
from dynamick.models.heads.trained import Routing, TrainedHead, all_products

__all__ = ["Routing", "TrainedHead", "head_of_layer", "heads", "routing_of"]


def heads() -> dict[str, TrainedHead]:
    """All heads by their names."""
    found = [module.HEAD for module in modules_in(__name__) if hasattr(module, "HEAD")]
    return {head.name: head for head in found}


def head_of_layer(layer: nn.Module, likely: TrainedHead | None = None) -> TrainedHead | None:
    """The kind of a head's layer; None if it is of no kind.

    Args:
        layer: such as `model.fc`.
        likely: is taken if it fits, because a layer does not say whether it was trained with a penalty.
    """
    kinds = [*([likely] if likely else []), *heads().values()]
    return next((head for head in kinds if head.holds(layer)), None)


def routing_of(layer: nn.Module) -> Routing:
    """Which products a classifier sums. A classifier of an unknown kind sums all of them."""
    head = head_of_layer(layer)
    return all_products(layer) if head is None else head.routing(layer)
