"""The head that a network came with, on the classes of a user's folder: whether their order looks right."""

import copy
from typing import Any

import torch
from torch import Tensor

from dynamick.networks import OpenNetwork
from dynamick.networks.layers import reorder

LOOKS_RIGHT = 50.0
"""In %: a head that is less often right, and would be more often right in another order, looks as if it were in that."""


def own_head(network: OpenNetwork, order: list[int]) -> Any:
    """A copy of the network's head, float32, with its outputs in the order of the classes."""
    head: Any = copy.deepcopy(network.model.get_submodule(network.need_head())).float().requires_grad_(False)
    reorder(head, order)
    return head


def order_looks_wrong(logits: Tensor, labels: Tensor) -> str | None:
    """A sentence where a head's outputs look as if they were in another order than the labels; None where not.

    Args:
        logits: shape (N, C).
        labels: int64, shape (N,).
    """
    said, classes = logits.argmax(1), logits.shape[1]
    # How often each class (row) was called each output.
    table = torch.zeros(classes, classes, dtype=torch.int64).index_put_((labels, said), torch.ones(()).long(), accumulate=True)
    right = 100 * table.diagonal().sum().item() / max(1, len(labels))
    best = table.argmax(1)
    other = 100 * table.amax(1).sum().item() / max(1, len(labels))
    if right >= LOOKS_RIGHT or other < LOOKS_RIGHT or len(best.unique()) < classes:
        return None
    return (
        f"the network's own head is right for {right:.1f} % of the images, and in another order of its outputs it would be for "
        f"{other:.1f} %: give the classes' names in the outputs' order (--classes FILE)"
    )
