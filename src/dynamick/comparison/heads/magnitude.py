"""Magnitude pruning of the dense head, with or without fine-tuning of what is left."""

from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor

from dynamick.comparison.heads.compared import ComparedHead
from dynamick.comparison.heads.fitted import Clock, Fitted, dense, keep_largest, linear
from dynamick.comparison.heads.tuning import fine_tune


def fit(
    x: Tensor, labels: Tensor, classes: int, budgets: Sequence[int], seed: int = 0, fine_tuned: bool = False
) -> Iterator[Fitted]:
    """For each budget the dense head's largest weights, budget * C of the whole matrix, on features of deviation 1.

    Args:
        x, labels, classes, budgets: as in `elastic_net.fit`.
        seed: of no effect.
        fine_tuned: fit the weights that are left again.
    """
    clock = Clock()
    whole = dense(x, labels, classes)
    # Sizes of weights can be compared only if the features have one scale.
    size = (whole.weight * x.std(0, unbiased=False)).abs()
    shared = clock()
    for budget in sorted(budgets):
        clock = Clock()
        mask = keep_largest(size, budget * classes)
        head = linear(whole.weight * mask, whole.bias + (whole.weight * ~mask) @ x.mean(0))
        if fine_tuned:
            head = fine_tune(x, labels, head, mask)
        yield Fitted(budget, head, shared + clock())


TUNED = partial(fit, fine_tuned=True)
COMPARED = (
    ComparedHead("magnitude", "magnitude pruning", fit, "static", 45, place=5, colour=4, marker="D"),
    ComparedHead(
        "magnitude-tuned", "magnitude pruning, fine-tuned", TUNED, "static", 450, place=6, colour=4, marker="D", tuned=True
    ),
)
