"""The L1 path over frozen features: the lasso, by the same proximal solver."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from dynamick.comparison.heads import elastic_net
from dynamick.comparison.heads.compared import ComparedHead
from dynamick.comparison.heads.fitted import Fitted


def fit(x: Tensor, labels: Tensor, classes: int, budgets: Sequence[int], seed: int = 0) -> Iterator[Fitted]:
    """As `elastic_net.fit`, with the whole penalty in L1."""
    yield from elastic_net.fit(x, labels, classes, budgets, seed, alpha=1.0)


COMPARED = (ComparedHead("l1", "L1 path", fit, "static", 500, place=2, colour=5, marker="s"),)
