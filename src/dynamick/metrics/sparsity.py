"""How sparse a head is: its static weights (docs/definitions.md, "Models and recipes")."""

from typing import NamedTuple

from torch import Tensor

THRESHOLD = 1e-3
"""A weight below this, in absolute value, does not count as a connection (the paper's Fig. 4b)."""


class HeadSparsity(NamedTuple):
    """A head's static sparsity.

    Attributes:
        sparse_share: share of weights with |w| < 1e-3, 0..1.
        weights_per_class: mean number of weights per class with |w| >= 1e-3.
        max_per_class: the largest such number of any class.

    >>> dk.metrics.sparsity(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
    HeadSparsity(sparse_share=0.25, weights_per_class=1.5, max_per_class=2)
    """

    sparse_share: float
    weights_per_class: float
    max_per_class: int


def sparsity(weight: Tensor, threshold: float = THRESHOLD) -> HeadSparsity:
    """Static sparsity of a head's weight, shape (O, M).

    >>> dk.metrics.sparsity(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0005, 3.0]])).weights_per_class
    1.5
    """
    # NaN counts as a connection.
    connected = (~(weight.detach().abs() < threshold)).sum(1)
    share = 1 - connected.sum().item() / max(1, weight.numel())
    return HeadSparsity(share, connected.double().mean().item(), int(connected.max()))
