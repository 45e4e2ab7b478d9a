"""`res18`: the usual linear head."""

from torch import nn

from dynamick.models.heads.trained import TrainedHead


def layer(inputs: int, classes: int, k: int | None, rule: str) -> nn.Module:
    """nn.Linear; it has no K and no rule."""
    return nn.Linear(inputs, classes)


def holds(layer: nn.Module) -> bool:
    """Whether it is nn.Linear itself. A derived class may compute something else."""
    return type(layer) is nn.Linear


HEAD = TrainedHead("dense", "", layer, holds, label="dense", sampled=True)
