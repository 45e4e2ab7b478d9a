"""Non-negative matrix factorisation (Lee and Seung 2001): features as sums of a few directions."""

import torch
from torch import Tensor

STEPS = 100
TINY = 1e-12
"""Keeps a division by zero away."""


def factorise(x: Tensor, count: int, seed: int = 0, steps: int | None = None) -> tuple[Tensor, Tensor]:
    """Non-negative A (N, n) and D (n, M) whose product is near x. Each step makes |x - A D|^2 smaller, or leaves it.

    Args:
        x: non-negative, shape (N, M).
        count: n, how many directions.
        seed: of the first A and D.
        steps: updates of both by Lee and Seung's rules; None for `STEPS`.
    """
    generator = torch.Generator().manual_seed(seed)
    scale = (x.mean() / count).sqrt()
    # Nothing may begin at zero: it would stay there.
    amounts, directions = (
        scale * (TINY + torch.rand(shape, generator=generator).to(x)) for shape in ((len(x), count), (count, x.shape[1]))
    )
    for _ in range(STEPS if steps is None else steps):
        directions *= (amounts.T @ x) / ((amounts.T @ amounts) @ directions + TINY)
        amounts *= (x @ directions.T) / (amounts @ (directions @ directions.T) + TINY)
    return amounts, directions
