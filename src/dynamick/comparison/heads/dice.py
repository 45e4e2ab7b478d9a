"""DICE (Sun and Li 2022): a static mask of the dense head by the training mean of W_ci * x_i."""

from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor

from dynamick.comparison.heads.compared import ComparedHead
from dynamick.comparison.heads.fitted import Clock, Fitted, dense, keep_largest, linear
from dynamick.comparison.heads.tuning import fine_tune


def fit(
    x: Tensor, labels: Tensor, classes: int, budgets: Sequence[int], seed: int = 0, fine_tuned: bool = False
) -> Iterator[Fitted]:
    """For each budget the dense head's weights of largest mean contribution, budget * C of the whole matrix.

    Args:
        x, labels, classes, budgets: as in `elastic_net.fit`.
        seed: of no effect.
        fine_tuned: fit the weights that are left again; the paper does not.
    """
    clock = Clock()
    whole = dense(x, labels, classes)
    contribution = mean_contribution(whole.weight, x)
    shared = clock()
    for budget in sorted(budgets):
        clock = Clock()
        mask = keep_largest(contribution, budget * classes)
        head = linear(whole.weight * mask, whole.bias)
        if fine_tuned:
            head = fine_tune(x, labels, head, mask)
        yield Fitted(budget, head, shared + clock())


def mean_contribution(weight: Tensor, x: Tensor) -> Tensor:
    """The training mean of W_ci * x_i for a weight (C, M) and features (N, M): shape (C, M)."""
    return weight * x.mean(0)


TUNED = partial(fit, fine_tuned=True)
COMPARED = (
    ComparedHead("dice", "DICE", fit, "static", 45, place=3, colour=2, marker="^"),
    ComparedHead("dice-tuned", "DICE, fine-tuned", TUNED, "static", 450, place=4, colour=2, marker="^", tuned=True),
)
