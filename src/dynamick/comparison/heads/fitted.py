"""What every head's `fit` yields, and what the convex heads share."""

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dynamick.comparison.logistic import Problem, solve, standardise, unscale

L2 = 1e-3
"""Of the dense head, on features of deviation 1."""


@dataclass(frozen=True)
class Fitted:
    """A head for one budget.

    Attributes:
        budget: the non-zeros a class (mean), or K, that was asked for; 0 for a head without one.
        head: nn.Linear or DynamicLinear, shape (C, M), on raw features; or nn.Sequential of a module that makes other units of
            these and such a layer of them.
        seconds: of CPU time that it took, all that it builds on included.
        about: what else is worth knowing about the fit.

    >>> dk.comparison.Fitted(budget=5, head=dk.DynamicLinear(64, 10, k=5), seconds=1.5).budget
    5
    """

    budget: int
    head: nn.Module
    seconds: float
    about: dict[str, float] = field(default_factory=dict)


class Clock:
    """Seconds of CPU time since it was made. Other work of the machine must not count."""

    def __init__(self) -> None:
        self.began = time.process_time()

    def __call__(self) -> float:
        return time.process_time() - self.began


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """nn.Linear of a weight (C, M) and a bias (C,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer.requires_grad_(False)


def dense(x: Tensor, labels: Tensor, classes: int) -> nn.Linear:
    """The dense head: logistic regression with a small L2 penalty."""
    scaled, mean, std = standardise(x)
    found = solve(Problem(scaled, labels, classes), l2=L2)
    return linear(*unscale(found.weight, found.bias, mean, std))


def keep_largest(score: Tensor, count: int) -> Tensor:
    """Boolean, of a score's shape: True at its `count` largest entries, of equal ones those of lower index."""
    order = score.flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    mask[order[:count]] = True
    return mask.view(score.shape)


def keep_largest_per_class(score: Tensor, count: int) -> Tensor:
    """As `keep_largest`, but within every class (row): exactly min(count, M) each."""
    order = score.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, order, True)
