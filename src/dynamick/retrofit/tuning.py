"""Decays chosen on a fifth of the training images that is held out; the images that figures are from are never asked."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynamick.data.class_folders import held_out


class Trial(NamedTuple):
    """What a head reached with a decay: top-1 on the images held out, in %, and weights a class, the mean."""

    top1: float
    weights: float = 0.0


@dataclass(frozen=True)
class Choice:
    """What was tried, and what was taken.

    Attributes:
        value: the decay that was taken.
        tried: each decay's top-1 on the images held out, in %.
    """

    value: float
    tried: dict[float, float]


def split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The places of the images to learn from and of those held out: of each class the 5th, 10th, 15th image, and so on.

    Of a class of two to four images the last one is held out; of a class of one, none.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        places = (labels == label).nonzero().flatten()
        held[places[held_out(len(places))]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def choose(decays: Sequence[float], trial: Callable[[float], Trial], most: float = math.inf) -> Choice:
    """Try decays from the middle one on, as long as they get better; take the best one.

    With more decay a head first gets better and then worse, so what lies beyond a worse one is not tried.

    Args:
        decays: in any order.
        trial: trains with a decay.
        most: a head of more weights a class is worse than any other, and the worse the more it has.
    """
    order, tried = sorted(decays), dict[float, Trial]()

    def worth(decay: float) -> tuple[bool, float]:
        if decay not in tried:
            tried[decay] = trial(decay)
        top1, weights = tried[decay]
        return (True, top1) if weights <= most else (False, -weights)

    middle = len(order) // 2
    best = worth(order[middle])
    for way in (order[middle + 1 :], order[:middle][::-1]):
        if best > worth(order[middle]):
            break
        for decay in way:
            if worth(decay) < best:
                break
            best = worth(decay)
    return Choice(max(decay for decay in tried if worth(decay) == best), {decay: tried[decay].top1 for decay in sorted(tried)})


def accuracy(logits: Tensor, labels: Tensor, top: int = 1) -> float:
    """The share of images whose class is among the `top` largest logits (N, C), in %."""
    found = logits.topk(min(top, logits.shape[1]), 1).indices == labels[:, None]
    return 100 * found.any(1).double().mean().item()
