"""Dynamic-K trained, pruned to its most routed weights, some of these exchanged, fine-tuned: the sparse head to deploy."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from dynamick.comparison.heads.compared import ComparedHead
from dynamick.comparison.heads.dynamic import train
from dynamick.comparison.heads.fitted import Clock, Fitted, keep_largest_per_class
from dynamick.comparison.heads.tuning import fine_tune
from dynamick.metrics import routing_start, routing_update
from dynamick.nn import DynamicLinear


def fit(x: Tensor, labels: Tensor, classes: int, budgets: Sequence[int], seed: int = 0) -> Iterator[Fitted]:
    """For each budget n a static head with at most n non-zeros in every class, and not only on average.

    A Dynamic-n head learns which units a class needs. The n that it routes most often are taken. Some are exchanged for others
    as long as the training loss falls (`exchange`). Then they are fitted again as a plain linear head (convex).

    Args:
        x, labels, classes, seed: as in `dynamic.fit`.
        budgets: n.
    """
    for budget in sorted(budgets):
        clock = Clock()
        routed = train(x, labels, classes, budget, seed)
        mask = keep_largest_per_class(usage(routed, x), budget)
        yield Fitted(budget, fine_tune(x, labels, routed, mask, exchanged=True), clock())


def usage(head: DynamicLinear, x: Tensor) -> Tensor:
    """How often each weight of a head is routed over features (N, M): float64, shape (C, M)."""
    counts = routing_start(head.weight)
    for rows in x.split(4096):
        counts = routing_update(counts, rows, head)
    return counts.used.double()


TITLE = "Dynamic-K static (pruned, exchanged, fine-tuned)"
COMPARED = (ComparedHead("dynamic-static", TITLE, fit, "static", 2000, seeded=True, place=7, colour=1, marker="*"),)
