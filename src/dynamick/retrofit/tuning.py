"""Decays chosen on a fifth of the training images that is held out; the images that figures are from are never asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamick.data.class_folders import held_out


@dataclass(frozen=True)
class Choice:
    """What was tried, and what was taken.

    Attributes:
        value: the decay that was taken.
        tried: each decay's top-1 on the images held out, in %.
        margin: in points; a decay that is so little behind the best one is as good.
    """

    value: float
    tried: dict[float, float]
    margin: float


def split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The places of the images to learn from and of those held out: of each class the 5th, 10th, 15th image, and so on.

    Of a class of two to four images the last one is held out; of a class of one, none.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        places = (labels == label).nonzero().flatten()
        held[places[held_out(len(places))]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def choose(decays: Sequence[float], top1: Callable[[float], float], images: int, sparse: bool = False) -> Choice:
    """Try decays from one on, as long as they get better; take the best one.

    With more decay a head first gets better and then worse, so what lies beyond a worse one is not tried.

    Args:
        decays: in any order.
        top1: trains with a decay, and gives the top-1 on the images held out, in %.
        images: how many these are, one or more.
        sparse: take the largest decay that is at most one standard error behind the best one (Breiman et al. 1984): its head
            is the sparsest of those that cannot be told apart. The largest one is then tried first, else the one in the middle.
    """
    order = sorted(decays)
    first = len(order) - 1 if sparse else len(order) // 2
    tried = {order[first]: top1(order[first])}
    for way in (order[first + 1 :], order[:first][::-1]):
        if max(tried.values()) > tried[order[first]]:
            break
        for decay in way:
            before = max(tried.values())
            tried[decay] = top1(decay)
            if tried[decay] < before:
                break
    tried = dict(sorted(tried.items()))
    best = max(tried.values())
    share = best / 100
    margin = 100 * (share * (1 - share) / images) ** 0.5 if sparse else 0.0
    return Choice(max(decay for decay, found in tried.items() if found >= best - margin), tried, margin)


def accuracy(logits: Tensor, labels: Tensor, top: int = 1) -> float:
    """The share of images whose class is among the `top` largest logits (N, C), in %."""
    found = logits.topk(min(top, logits.shape[1]), 1).indices == labels[:, None]
    return 100 * found.any(1).double().mean().item()
