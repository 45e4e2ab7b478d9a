"""`res18-l1`: a linear head that an L1 penalty makes sparse while it trains."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamick.models.heads import dense
from dynamick.models.heads.trained import TrainedHead


@torch.no_grad()
def soft_threshold_(weight: Tensor, amount: float) -> None:
    """The proximal step of an L1 penalty, in place: every weight moves towards zero by `amount`, and stops there."""
    weight.copy_(F.softshrink(weight, amount))


def after_step(weight: Tensor, lr: float, strength: float) -> None:
    """The penalty's share of a step. Zeros are exact."""
    if strength:
        soft_threshold_(weight, lr * strength)


HEAD = TrainedHead("l1", "l1", dense.layer, dense.holds, label="l1", sampled=True, strength="l1", after_step=after_step)
