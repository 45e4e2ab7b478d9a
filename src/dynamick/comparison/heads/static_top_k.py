"""Straight-through static top-K: each class keeps its K largest weights, and all weights learn as if they were kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from dynamick.comparison.heads.compared import ComparedHead
from dynamick.comparison.heads.fitted import Fitted, keep_largest_per_class
from dynamick.comparison.heads.stepped import Stepped, fit_tuned


@dataclass(frozen=True)
class StaticTopK(Stepped):
    """A head of the K largest weights of each class, of either sign; of equal ones those of lower index stay.

    The gradient is that of the sparse weights, and passes straight through to all of them (Bengio, Leonard and Courville
    2013): a weight outside can grow until it is among the K.

    Attributes:
        k: how many weights a class keeps.
    """

    k: int

    def begin(self, layer: Any) -> None:
        parametrize.register_parametrization(layer, "weight", KeepLargest(self.k))


class KeepLargest(nn.Module):
    """A weight (C, M) with zeros outside the k largest of each class; the gradient passes as if it were the identity."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, weight: Tensor) -> Tensor:
        kept = weight * keep_largest_per_class(weight.detach(), self.k)
        return weight + (kept - weight).detach()


def fit(x: Tensor, labels: Tensor, classes: int, budgets: Sequence[int], seed: int = 0) -> Iterator[Fitted]:
    """For each budget K a head with K weights in every class; its decay is chosen on held-out images (`fit_tuned`)."""
    yield from fit_tuned(StaticTopK, x, labels, classes, budgets, seed)


TITLE = "static top-K, straight through"
COMPARED = (ComparedHead("static-top-k", TITLE, fit, "static", 200, True, place=8, colour=3, marker="P"),)
