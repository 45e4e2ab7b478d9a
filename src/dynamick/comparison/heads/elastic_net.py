"""The elastic-net path over frozen features (Wong, Santurkar and Madry 2021): the strongest static competitor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from dynamick.comparison.heads.compared import ComparedHead
from dynamick.comparison.heads.fitted import Clock, Fitted, linear
from dynamick.comparison.heads.tuning import fine_tune
from dynamick.comparison.logistic import Problem, Solution, solve, solve_along, standardise, unscale

ALPHA = 0.99
"""The share of L1 in the penalty, as Wong et al. use it."""
STRIDE = 10 ** (-1 / 8)
BISECTIONS = 8
FLOOR = 1e-4
"""The path ends at this share of the strength that leaves no weight. Denser budgets get what is reached there."""


@dataclass(frozen=True)
class Point:
    """A point of the path: the minimum for L1 of alpha * strength and L2 of (1 - alpha) * strength."""

    strength: float
    solution: Solution

    @property
    def nec(self) -> float:
        """Non-zeros a class, on average."""
        return (self.solution.weight != 0).sum().item() / len(self.solution.weight)


def fit(
    x: Tensor,
    labels: Tensor,
    classes: int,
    budgets: Sequence[int],
    seed: int = 0,
    alpha: float = ALPHA,
    fine_tuned: bool = False,
) -> Iterator[Fitted]:
    """For each budget the densest point of the path with at most so many non-zeros a class on average.

    The path goes down from the strongest penalty, each point from the one before. It is bisected where it passes a budget.

    Args:
        x: features, shape (N, M).
        labels: shape (N,).
        classes: C.
        budgets: non-zeros a class, in any order; results come in ascending order.
        seed: of no effect, the problem is convex.
        alpha: share of L1; 1 is the lasso.
        fine_tuned: fit the weights that are left again, without L1 ("relaxed").
    """
    clock = Clock()
    scaled, mean, std = standardise(x)
    problem = Problem(scaled, labels, classes)
    before = first(problem, alpha)
    floor = FLOOR * before.strength
    after = follow(problem, before, before.strength * STRIDE, alpha)
    path = clock()
    for budget in sorted(budgets):
        clock = Clock()
        while after.nec <= budget and after.strength > floor:
            before, after = after, follow(problem, after, after.strength * STRIDE, alpha)
        # A head builds on the path down to it, and not on another head's bisection.
        path, clock = path + clock(), Clock()
        best = after if after.nec <= budget else _bisect(problem, before, after.strength, alpha, budget)
        head = linear(*unscale(best.solution.weight, best.solution.bias, mean, std))
        if fine_tuned:
            head = fine_tune(x, labels, head, head.weight != 0)
        yield Fitted(budget, head, path + clock(), {"strength": best.strength, "violation": best.solution.violation})


def first(problem: Problem, alpha: float, start: tuple[Tensor, Tensor] | None = None) -> Point:
    """The point of the least strength that leaves no weight: its L1 is the largest gradient where all weights are 0.

    Args:
        problem: as in `logistic.solve`.
        alpha: share of L1.
        start: weights of 0, and biases; None for those of the classes' shares.
    """
    found = solve(problem, l1=float("inf"), start=start, steps=1)
    return Point(found.gradient.abs().max().item() / alpha, found)


def follow(problem: Problem, before: Point, strength: float, alpha: float) -> Point:
    """The next point, of less strength."""
    tolerance = min(1e-4, max(1e-5, alpha * strength / 50))
    l1, l2 = alpha * strength, (1 - alpha) * strength
    return Point(strength, solve_along(problem, l1, l2, before.solution, alpha * before.strength, tolerance))


def _bisect(problem: Problem, before: Point, weak: float, alpha: float, budget: int) -> Point:
    """Between a point within the budget and a strength that is beyond it: the weakest penalty found that stays within it."""
    for _ in range(BISECTIONS):
        found = follow(problem, before, (before.strength * weak) ** 0.5, alpha)
        if found.nec <= budget:
            before = found
        else:
            weak = found.strength
    return before


TUNED = partial(fit, fine_tuned=True)
COMPARED = (
    ComparedHead("elastic-net", "elastic-net path", fit, "static", 400, place=0, colour=0, marker="o"),
    ComparedHead(
        "elastic-net-tuned", "elastic-net path, fine-tuned", TUNED, "static", 700, place=1, colour=0, marker="o", tuned=True
    ),
)
