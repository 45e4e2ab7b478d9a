"""A better choice of a sparse head's weights. Some are added and as many dropped, as long as the training objective falls.

Gradient support pursuit (Bahmani, Raj and Boufounos 2013) within each class. A second order model of the loss in
one class says which weights to add or drop (Optimal Brain Surgeon, Hassibi and Stork 1993). The objective itself says whether
to keep the change.
"""

import torch
from torch import Tensor

from dynamick.comparison.heads.fitted import keep_largest_per_class
from dynamick.comparison.logistic import Problem, Solution, solve_within

LEAST = 1e-5
"""If the objective does not fall by more than this, fewer weights are exchanged at a time."""
COARSE = 5e-4
"""Tolerance of the fits in between (`logistic.solve`)."""


def exchange(problem: Problem, mask: Tensor, l2: float, start: tuple[Tensor, Tensor]) -> tuple[Tensor, Solution]:
    """A mask with as many weights in each class as the given one, and a lower (or the same) objective on the training set.

    Args:
        problem: as in `logistic.solve`.
        mask: boolean, shape (C, M), True for the weights to begin with, equally many in every class.
        l2: strength of the penalty.
        start: W and b to begin the first fit with.

    Returns:
        The mask, and the (coarse) minimum within it.
    """
    count = int(mask.sum(1)[0])
    best = solve_within(problem, mask, l2, start, COARSE)
    value = objective(problem, best, l2)
    moved = max(1, count // 2)
    while moved:
        added = mask | keep_largest_per_class(gains(problem, best, mask, l2), moved)
        wide = solve_within(problem, added, l2, (best.weight, best.bias), COARSE)
        tried = keep_largest_per_class(saliencies(problem, wide, added, l2), count)
        narrow = solve_within(problem, tried, l2, (wide.weight, wide.bias), COARSE)
        now = objective(problem, narrow, l2)
        if now < value - LEAST:
            mask, best, value = tried, narrow, now
        else:
            moved //= 2
    return mask, best


def objective(problem: Problem, solution: Solution, l2: float) -> float:
    """Mean cross entropy + l2 / 2 * |W|_2^2."""
    loss, _, _ = problem.gradient(problem.logits(solution.weight, solution.bias))
    return loss + l2 / 2 * solution.weight.square().sum().item()


def gains(problem: Problem, solution: Solution, mask: Tensor, l2: float) -> Tensor:
    """About how far the objective falls if a weight joins those of its class in the mask: shape (C, M), -1 for those in it.

    g^2 / 2h, where h is the curvature that is left after the class's own weights and bias have followed.
    """
    found = torch.full_like(solution.weight, -1.0)
    for c, (inputs, q) in enumerate(_classes(problem, solution, mask)):
        inverse = torch.linalg.inv(_curvature(inputs, q, l2))
        cross = problem.x.T @ (inputs * q) / len(q)
        left = (problem.x.square().T @ q)[:, 0] / len(q) + l2 - ((cross @ inverse) * cross).sum(1)
        found[c] = solution.gradient[c].square() / (2 * left.clamp(min=l2))
        found[c, mask[c]] = -1
    return found


def saliencies(problem: Problem, solution: Solution, mask: Tensor, l2: float) -> Tensor:
    """About how far the objective rises if a weight of the mask is taken away and its class follows: shape (C, M), else -1.

    w^2 / 2 [H^-1]_ii over the class's own weights and bias.
    """
    found = torch.full_like(solution.weight, -1.0)
    for c, (inputs, q) in enumerate(_classes(problem, solution, mask)):
        inverse = torch.linalg.inv(_curvature(inputs, q, l2)).diagonal()[:-1]
        found[c, mask[c]] = solution.weight[c, mask[c]].square() / (2 * inverse)
    return found


def _classes(problem: Problem, solution: Solution, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each class its inputs in the mask and a 1 for the bias, (N, n + 1), and P(1 - P), (N, 1)."""
    p = problem.logits(solution.weight, solution.bias).softmax(1)
    q = p * (1 - p)
    one = problem.x.new_ones(len(q), 1)
    return [(torch.cat([problem.x[:, kept], one], 1), q[:, [c]]) for c, kept in enumerate(mask)]


def _curvature(inputs: Tensor, q: Tensor, l2: float) -> Tensor:
    """The objective's Hessian in one class; the penalty on the bias only keeps it invertible."""
    return (inputs * q).T @ inputs / len(q) + l2 * torch.eye(inputs.shape[1], device=inputs.device)
