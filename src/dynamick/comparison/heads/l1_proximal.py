"""L1 by proximal steps: after each step of the optimiser every weight moves towards zero, and stops there.

A weight moves by the strength times its own rate: the penalty's step in the optimiser's metric (Yun, Lozano and Yang 2021).
AdamW's steps have about one length, so by one amount for all either every weight would stay, or none.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dynamick.comparison.heads.compared import ComparedHead
from dynamick.comparison.heads.fitted import Clock, Fitted
from dynamick.comparison.heads.stepped import Begun, Stepped, rates

FIRST, FACTOR = 0.03, 4.0
"""The first strength that is tried, and by how much the next one differs until one is within the budget and one beyond it."""
BISECTIONS = 5
FLOOR = 1e-4
"""No weaker strength is tried. Denser budgets get what is reached there."""

Trained = TypeVar("Trained")


@dataclass(frozen=True)
class Proximal(Stepped):
    """A head under an L1 penalty. Zeros are exact.

    Attributes:
        strength: the penalty is this times the sum of all |w|, beside the mean loss.
    """

    strength: float

    def after_step(self, layer: Any, progress: float, optimizer: torch.optim.Optimizer) -> None:
        soft_threshold_(layer.weight, self.strength * rates(optimizer, layer.weight))


@torch.no_grad()
def soft_threshold_(weight: Tensor, amounts: Tensor) -> None:
    """Move every weight towards zero by an amount of its own, in place; it stops there."""
    weight.sub_(weight.clamp(-amounts, amounts))


def weakest_within(
    train: Callable[[float], Trained], count: Callable[[Trained], float], budget: float
) -> tuple[float, Trained]:
    """The weakest penalty found whose head stays within a budget.

    Args:
        train: from a strength to what is trained with it.
        count: its non-zero weights a class, the mean.
        budget: at most so many.

    Returns:
        The strength, and what was trained with it.
    """
    strength, found, beyond = FIRST, train(FIRST), None
    while count(found) > budget:
        beyond, strength = strength, strength * FACTOR
        found = train(strength)
    within = strength, found
    while beyond is None and within[0] > FLOOR:
        found = train(strength := within[0] / FACTOR)
        if count(found) <= budget:
            within = strength, found
        else:
            beyond = strength
    for _ in range(0 if beyond is None else BISECTIONS):
        found = train(strength := (within[0] * (beyond or FLOOR)) ** 0.5)
        if count(found) <= budget:
            within = strength, found
        else:
            beyond = strength
    return within


def mean_weights(head: nn.Module) -> float:
    """Non-zero weights a class, the mean."""
    weight = head.get_parameter("weight")
    return (weight != 0).sum().item() / len(weight)


def fit(x: Tensor, labels: Tensor, classes: int, budgets: Sequence[int], seed: int = 0) -> Iterator[Fitted]:
    """For each budget the head of the weakest penalty found that leaves at most so many weights a class on average.

    The budget decides the strength, and there is no other decay: nothing is left to choose on held-out images.

    Args:
        x, labels, classes, budgets: as in `elastic_net.fit`.
        seed: of the order of the images.
    """
    clock = Clock()
    begun = Begun.of(x, labels, classes)
    shared = clock()

    @cache
    def train(strength: float) -> tuple[nn.Linear, float]:
        clock = Clock()
        return begun.train(Proximal(strength), 0.0, seed), clock()

    for budget in sorted(budgets):
        spent: dict[float, float] = {}

        def asked(strength: float, spent: dict[float, float] = spent) -> nn.Linear:
            head, spent[strength] = train(strength)
            return head

        strength, head = weakest_within(asked, mean_weights, budget)
        # Another budget may have asked for the same strength: it counts for both.
        yield Fitted(budget, head, shared + sum(spent.values()), {"strength": strength})


COMPARED = (ComparedHead("l1-proximal", "L1 by proximal steps", fit, "static", 150, True, place=10, colour=5, marker="p"),)
