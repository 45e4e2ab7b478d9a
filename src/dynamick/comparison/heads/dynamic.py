"""The Dynamic-K head, trained on features with K scheduled downwards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dynamick.comparison.heads.compared import ComparedHead
from dynamick.comparison.heads.fitted import Clock, Fitted, dense
from dynamick.comparison.heads.stepped import EPOCHS, Stepped, descend
from dynamick.nn import DynamicLinear
from dynamick.optim import k_schedule

DECAY = 0.1
STEADY = 0.1
"""A unit whose deviation is at most this part of its mean is left out. Divided by its deviation and not shifted, its products
would be large for every image and decide nothing."""


@dataclass(frozen=True)
class Routed(Stepped):
    """A Dynamic-K head.

    Attributes:
        k, rule: how many inputs a class routes at most, and by which rule.
    """

    k: int
    rule: str = "at_most"

    def layer(self, inputs: int, classes: int, bias: bool = True, device: Any = None) -> DynamicLinear:
        return DynamicLinear(inputs, classes, self.k, bias, self.rule, device)


class Falling(Routed):
    """The same, with K scheduled downwards: many units learn first, and few are left."""

    def begin(self, layer: Any) -> None:
        layer.k = scheduled_k(self.k, layer.in_features, 0.0)

    def after_step(self, layer: Any, progress: float, optimizer: torch.optim.Optimizer) -> None:
        layer.k = scheduled_k(self.k, layer.in_features, progress)

    def end(self, layer: Any) -> None:
        layer.k = self.k


def fit(
    x: Tensor, labels: Tensor, classes: int, budgets: Sequence[int], seed: int = 0, rule: str = "at_most"
) -> Iterator[Fitted]:
    """For each K a head trained to route K.

    Args:
        x, labels, classes: as in `elastic_net.fit`.
        budgets: K.
        seed: of the order of the images.
        rule: `at_most` or `exactly`.
    """
    for k in sorted(budgets):
        clock = Clock()
        yield Fitted(k, train(x, labels, classes, k, seed, rule), clock())


def train(
    x: Tensor,
    labels: Tensor,
    classes: int,
    k: int,
    seed: int = 0,
    rule: str = "at_most",
    epochs: int = EPOCHS,
    bias: bool = True,
) -> DynamicLinear:
    """A Dynamic-K head on features (N, M). It begins from the dense head; K falls in the first half. AdamW, cosine schedule.

    From random weights it would stay in poor optima: the weight of a unit that a class needs may become negative early. Then it
    is never routed, and stays so. During the training features are divided by their deviations but never shifted, because the
    signs of products must not change. A unit that hardly varies (STEADY) gets no weight.
    """
    M = x.shape[1]
    std = x.std(0, unbiased=False)
    std = std.where(std > STEADY * x.mean(0).abs(), 0)
    scale = torch.where(std > 0, 1 / std, torch.zeros_like(std))
    kind = Falling(k, rule)
    head = kind.layer(M, classes, bias, x.device)
    begun = dense(x * (std > 0), labels, classes)
    with torch.no_grad():
        head.weight.copy_(begun.weight * std)
        if bias:
            head.bias.copy_(begun.bias)
    descend(kind, head, x * scale, labels, DECAY, seed, epochs)
    with torch.no_grad():
        head.weight.mul_(scale)
    return head.requires_grad_(False)


def scheduled_k(k: int, units: int, progress: float) -> int:
    """K at a share of the training, 0..1: falls geometrically from 4 k to k at the half, and stays there."""
    return min(units, k_schedule.scheduled_k(4 * k, k, progress))


EXACTLY = partial(fit, rule="exactly")
COMPARED = (
    ComparedHead("dynamic-at-most", "Dynamic-K, at_most", fit, "routed", 280, True, place=1, colour=1, marker="*"),
    ComparedHead("dynamic-exactly", "Dynamic-K, exactly", EXACTLY, "routed", 280, True, place=2, colour=2, marker="^"),
)
