"""Multinomial logistic regression with L1 and L2 penalties and a mask of allowed weights: one solver for all heads.

Accelerated proximal gradient (Beck and Teboulle 2009) with adaptive restart (O'Donoghue and Candes 2015). Each step is in the
metric of the features' second moments, which bounds the Hessian everywhere (Böhning 1992). So there is no line search, and
features may be correlated. Along a path only the features that the strong rules keep are used (Tibshirani et al. 2012); all
conditions are checked afterwards.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamick.errors import InputError

INNER_STEPS = 300
"""Of the problem that each step solves in its metric. An inexact step costs more steps but does not change the result."""


@dataclass(frozen=True)
class Problem:
    """Minimise  mean cross entropy(x W' + b, y) + l1 * |W|_1 + l2 / 2 * |W|_2^2; the bias is free.

    Attributes:
        x: features, shape (N, M), of one scale (`standardise`).
        y: labels in 0..C-1, shape (N,).
        classes: C.
    """

    x: Tensor
    y: Tensor
    classes: int

    def logits(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Shape (N, C), for W (C, M) and b (C,)."""
        return torch.addmm(bias, self.x, weight.T)

    def gradient(self, logits: Tensor) -> tuple[float, Tensor, Tensor]:
        """Mean cross entropy of logits, and its gradients by W (C, M) and b (C,)."""
        log_p = F.log_softmax(logits, 1)
        loss = F.nll_loss(log_p, self.y)
        residual = log_p.exp_()
        residual[torch.arange(len(self.y), device=self.y.device), self.y] -= 1
        residual /= len(self.y)
        return loss.item(), residual.T @ self.x, residual.sum(0)

    @cached_property
    def bound(self) -> tuple[Tensor, float]:
        """Half the second moments of (x, 1), shape (M + 1, M + 1), and the largest eigenvalue of that matrix.

        For every class, and all classes together, the mean cross entropy's Hessian is at most this (Böhning 1992).
        """
        mean = self.x.mean(0)
        M = len(mean)
        moments = self.x.new_ones(M + 1, M + 1)
        moments[:M, :M] = self.x.T @ self.x / len(self.x)
        moments[:M, M] = moments[M, :M] = mean
        return moments / 2, torch.linalg.eigvalsh(moments / 2)[-1].item()


@dataclass(frozen=True)
class Solution:
    """A minimum.

    Attributes:
        weight, bias: shapes (C, M) and (C,).
        gradient: of the mean cross entropy by W there, shape (C, M).
        steps: gradients that it took.
        violation: by how much the optimality conditions are missed, the largest over all coordinates (`violation`).
    """

    weight: Tensor
    bias: Tensor
    gradient: Tensor
    steps: int
    violation: float


def solve(
    problem: Problem,
    l1: float = 0.0,
    l2: float = 0.0,
    mask: Tensor | None = None,
    start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-4,
    steps: int = 2000,
) -> Solution:
    """The minimum of a problem.

    Args:
        problem: features and labels.
        l1, l2: strengths of the penalties on W.
        mask: boolean, shape (C, M), False where a weight must stay 0; None allows all.
        start: W and b to begin with; None begins with zeros.
        tolerance: stop when the optimality conditions are missed by less than this, in units of the mean loss's gradient.
        steps: stop after this many.

    Returns:
        A `Solution`; its `violation` says whether the tolerance was reached.

    Raises:
        InputError: without a start, a class without examples: its best bias is minus infinity.
    """
    w, b = _start(problem, mask, start)
    v, c, momentum = w, b, 1.0
    z_w = z_v = problem.logits(w, b)
    for step in range(1, steps + 1):
        _, g_w, g_c = problem.gradient(z_v)
        missed = violation(v, g_w, g_c, l1, l2, mask)
        if missed < tolerance or step == steps:
            break
        new_w, new_b = _step(problem, v, c, g_w, g_c, l1, l2, mask, missed / 10)
        z_new = problem.logits(new_w, new_b)
        # Begin the momentum anew if it points uphill.
        if _uphill(problem, (v, c), (new_w, new_b), (w, b)):
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        push = (momentum - 1) / following
        # Logits are linear in W and b: those of the next point need no pass over the features.
        v, c, z_v = new_w + push * (new_w - w), new_b + push * (new_b - b), z_new + push * (z_new - z_w)
        w, b, z_w, momentum = new_w, new_b, z_new, following
    return Solution(v, c, g_w, step, missed)


def solve_along(problem: Problem, l1: float, l2: float, before: Solution, l1_before: float, tolerance: float) -> Solution:
    """The minimum at one strength. It begins from that at a larger one, and most steps use few of the features.

    Args:
        problem, l1, l2, tolerance: as in `solve`.
        before: the solution at the strength `l1_before`.
    """
    weight, bias = before.weight, before.bias
    kept = ((before.gradient.abs() >= 2 * l1 - l1_before) | (weight != 0)).any(0)
    steps = 0
    while True:
        columns = kept.nonzero().flatten()
        part = solve(replace(problem, x=problem.x[:, columns]), l1, l2, None, (weight[:, columns], bias), tolerance)
        weight = torch.zeros_like(weight).index_copy_(1, columns, part.weight)
        bias, steps = part.bias, steps + part.steps
        _, g_w, g_b = problem.gradient(problem.logits(weight, bias))
        wrong = (~kept) & (g_w.abs() > l1 + tolerance).any(0)
        if not wrong.any():
            return Solution(weight, bias, g_w, steps, violation(weight, g_w, g_b, l1, l2))
        kept |= wrong


def solve_within(problem: Problem, mask: Tensor, l2: float, start: tuple[Tensor, Tensor], tolerance: float = 1e-4) -> Solution:
    """The minimum with weights only inside a mask (C, M), without L1, computed only on the features that the mask uses.

    Args:
        problem, mask, l2, start, tolerance: as in `solve`.

    Returns:
        A `Solution`; its `gradient` is of all weights.
    """
    columns = mask.any(0).nonzero().flatten()
    weight, bias = start
    part = replace(problem, x=problem.x[:, columns])
    found = solve(part, 0.0, l2, mask[:, columns], (weight[:, columns], bias), tolerance)
    whole = torch.zeros_like(weight).index_copy_(1, columns, found.weight)
    _, gradient, _ = problem.gradient(problem.logits(whole, found.bias))
    return replace(found, weight=whole, gradient=gradient)


def violation(weight: Tensor, g_w: Tensor, g_b: Tensor, l1: float, l2: float, mask: Tensor | None = None) -> float:
    """The largest miss, over coordinates, of the conditions of Karush, Kuhn and Tucker.

    They are: g + l2 w + l1 sign(w) = 0 where w is not 0, |g| <= l1 where it is, and g_b = 0. Masked weights have none.

    Args:
        weight: shape (C, M).
        g_w, g_b: the loss's gradients without penalties, shapes (C, M) and (C,).
    """
    full = g_w + l2 * weight
    missed = torch.where(weight != 0, (full + l1 * weight.sign()).abs(), (full.abs() - l1).clamp(min=0))
    if mask is not None:
        missed = missed * mask
    return max(missed.max().item() if missed.numel() else 0.0, g_b.abs().max().item())


def standardise(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, M) with mean 0 and deviation 1, their means and deviations (1 for a constant feature)."""
    mean, std = x.mean(0), x.std(0, unbiased=False)
    std = torch.where(std > 1e-6 * mean.abs().clamp(min=1e-6), std, torch.ones_like(std))
    return (x - mean) / std, mean, std


def unscale(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """A solution on standardised features as one on the features themselves; zeros stay zeros."""
    raw = weight / std
    return raw, bias - raw @ mean


def _step(
    problem: Problem,
    v: Tensor,
    c: Tensor,
    g_w: Tensor,
    g_c: Tensor,
    l1: float,
    l2: float,
    mask: Tensor | None,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """The minimum of the bound at (v, c): <g, d> + d H d' / 2 and the penalties, by proximal gradient on M + 1 inputs.

    It never touches the N features: a step here costs M / N of one over them.
    """
    H, largest = problem.bound
    rate = 1 / (largest + l2)
    M = v.shape[1]
    at, slope = torch.cat([v, c[:, None]], 1), torch.cat([g_w, g_c[:, None]], 1)
    # The bias has no penalty.
    shrink, ridge = at.new_full((M + 1,), l1), at.new_full((M + 1,), l2)
    shrink[M], ridge[M] = 0.0, 0.0
    allowed = None if mask is None else F.pad(mask, (0, 1), value=True)
    u = before = at
    momentum = 1.0
    for count in range(1, INNER_STEPS + 1):
        moved = u - rate * (slope + (u - at) @ H + ridge * u)
        new = moved - moved.clamp(-rate * shrink, rate * shrink)
        if allowed is not None:
            new = new * allowed
        # u - new is the step times the gradient. If it is small, the conditions hold.
        if count % 10 == 0 and (u - new).abs().max().item() < rate * tolerance:
            break
        if ((u - new) * (new - before)).sum() > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        u = new + (momentum - 1) / following * (new - before)
        before, momentum = new, following
    return new[:, :M], new[:, M]


def _uphill(problem: Problem, v: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor]) -> bool:
    """Whether the step from v to new, in the problem's metric, points against that from old to new."""
    back, ahead = (torch.cat([new[0] - each[0], (new[1] - each[1])[:, None]], 1) for each in (v, old))
    return ((back @ problem.bound[0]) * ahead).sum().item() < 0


def _start(problem: Problem, mask: Tensor | None, start: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    if start is None:
        weight = problem.x.new_zeros(problem.classes, problem.x.shape[1])
        # The classes' shares are the exact minimum while all weights are 0.
        counts = torch.bincount(problem.y, minlength=problem.classes)
        if not counts.all():
            lacking = int((counts == 0).nonzero()[0])
            raise InputError(f"labels: no example of class {lacking}; give each of the {problem.classes} classes one or more")
        return weight, (counts.to(problem.x.dtype) / len(problem.y)).log()
    weight, bias = start
    return (weight if mask is None else weight * mask), bias
