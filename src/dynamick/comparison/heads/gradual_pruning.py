"""Gradual magnitude pruning (Zhu and Gupta 2017): the smallest weights of each class go while the others still learn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dynamick.comparison.heads.compared import ComparedHead
from dynamick.comparison.heads.fitted import Fitted, keep_largest_per_class
from dynamick.comparison.heads.stepped import Stepped, fit_tuned, trained_weight

FROM, UNTIL = 0.1, 0.6
"""Weights go between these shares of the steps."""


@dataclass(frozen=True)
class GradualPruning(Stepped):
    """A head whose classes lose their weights of least |w|, step by step, until each has k. A weight that went stays away.

    Attributes:
        k: how many weights a class keeps.
    """

    k: int

    def begin(self, layer: Any) -> None:
        parametrize.register_parametrization(layer, "weight", Kept(layer.weight))

    def after_step(self, layer: Any, progress: float, optimizer: torch.optim.Optimizer) -> None:
        mask, weight = layer.parametrizations.weight[0], trained_weight(layer).detach()
        left = weights_left(weight.shape[1], self.k, progress)
        mask.kept = keep_largest_per_class(torch.where(mask.kept, weight.abs(), -1.0), left)


class Kept(nn.Module):
    """A weight (C, M) with zeros where it is pruned; there is no gradient there.

    kept: boolean, True for the weights that are left.
    """

    kept: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.kept


def weights_left(inputs: int, k: int, progress: float) -> int:
    """How many weights a class has at a share of the training, 0..1: the cubic schedule, from all inputs down to k.

    The pruned share at t is s_f + (s_i - s_f) (1 - (t - t_0) / T)^3, with s_i = 0 (Zhu and Gupta 2017, equation 1).
    """
    k = min(k, inputs)
    done = min(1.0, max(0.0, (progress - FROM) / (UNTIL - FROM)))
    return round(k + (inputs - k) * (1 - done) ** 3)


def fit(x: Tensor, labels: Tensor, classes: int, budgets: Sequence[int], seed: int = 0) -> Iterator[Fitted]:
    """For each budget a head with so many weights in every class; its decay is chosen on held-out images (`fit_tuned`)."""
    yield from fit_tuned(GradualPruning, x, labels, classes, budgets, seed)


TITLE = "gradual magnitude pruning"
COMPARED = (ComparedHead("gradual-pruning", TITLE, fit, "static", 200, True, place=9, colour=6, marker="X"),)
