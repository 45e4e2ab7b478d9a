"""Post-hoc top-K: in the dense head each class sums only its K largest positive products. It is not trained for this."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dynamick.comparison.heads.compared import ComparedHead
from dynamick.comparison.heads.fitted import Clock, Fitted, dense
from dynamick.nn import DynamicLinear


def fit(
    x: Tensor, labels: Tensor, classes: int, budgets: Sequence[int], seed: int = 0, rule: str = "at_most"
) -> Iterator[Fitted]:
    """For each K the dense head under Algorithm 2.

    Args:
        x, labels, classes, seed: as in `elastic_net.fit`.
        budgets: K.
        rule: `at_most` or `exactly`.
    """
    clock = Clock()
    whole = dense(x, labels, classes)
    seconds = clock()
    for k in sorted(budgets):
        yield Fitted(k, routed(whole, k, rule), seconds)


def routed(head: nn.Linear, k: int, rule: str) -> DynamicLinear:
    """A Dynamic-K head with a dense head's weights, shape (C, M)."""
    layer = DynamicLinear(head.in_features, head.out_features, k, rule=rule, device=head.weight.device)
    with torch.no_grad():
        layer.weight.copy_(head.weight)
        layer.bias.copy_(head.bias)
    return layer.requires_grad_(False)


COMPARED = (ComparedHead("top-k", "top-K of the dense head", fit, "routed", 45, place=0, colour=0, marker="o"),)
