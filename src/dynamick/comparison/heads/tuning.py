"""Fine-tuning of sparse heads. First it is settled which weights there are. The rest is a convex problem."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from dynamick.comparison.heads.exchange import COARSE, exchange
from dynamick.comparison.heads.fitted import linear
from dynamick.comparison.logistic import Problem, solve_within, standardise, unscale

L2S = (1e-2, 1e-3, 1e-4, 1e-5)
"""Strengths to choose from (`choose_l2`), on features of deviation 1."""
HELD_OUT = 10
"""To choose, one in this many training images is held out."""


def fine_tune(x: Tensor, labels: Tensor, head: nn.Module, mask: Tensor, exchanged: bool = False) -> nn.Linear:
    """The best head with weights inside a mask (C, M) only, its L2 chosen on training images that are held out.

    Both problems are convex: the head to begin with decides only how long it takes.

    Args:
        x, labels: as in `elastic_net.fit`.
        head: to begin with.
        mask: boolean, True for the weights that may differ from 0.
        exchanged: first improve the mask (`exchange.exchange`); every class keeps its number of weights.
    """
    scaled, mean, std = standardise(x)
    weight, bias = head.get_parameter("weight").detach() * mask, head.get_parameter("bias").detach()
    problem = Problem(scaled, labels, len(bias))
    start = (weight * std, bias + weight @ mean)
    l2 = choose_l2(problem, mask, start)
    if exchanged:
        mask, coarse = exchange(problem, mask, l2, start)
        start = (coarse.weight, coarse.bias)
    found = solve_within(problem, mask, l2, start)
    return linear(*unscale(found.weight, found.bias, mean, std))


def choose_l2(problem: Problem, mask: Tensor, start: tuple[Tensor, Tensor]) -> float:
    """The strength of `L2S` of least cross entropy on every tenth image, fitted on the others.

    Args:
        problem, mask, start: as in `logistic.solve_within`.
    """
    fitted, asked = parted(problem)
    losses = []
    for l2 in L2S:
        found = solve_within(fitted, mask, l2, start, COARSE)
        start = (found.weight, found.bias)
        losses.append(asked.gradient(asked.logits(*start))[0])
    return L2S[losses.index(min(losses))]


def held_out(labels: Tensor) -> Tensor:
    """Which of the training images, labels (N,), a choice is made on: boolean, shape (N,)."""
    return torch.arange(len(labels), device=labels.device) % HELD_OUT == 0


def parted(problem: Problem) -> tuple[Problem, Problem]:
    """A problem of the images that are fitted, and one of those that are held out."""
    held = held_out(problem.y)
    fitted, asked = (replace(problem, x=problem.x[rows], y=problem.y[rows]) for rows in (~held, held))
    return fitted, asked
