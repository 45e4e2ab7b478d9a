"""The heads of a retrofit, each with its decay chosen on held-out training images and then trained on all."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dynamick.comparison.heads.dynamic import Routed
from dynamick.comparison.heads.l1_proximal import Proximal, mean_weights, weakest_within
from dynamick.metrics import sparsity
from dynamick.nn import DynamicLinear
from dynamick.retrofit.learning import Settings, UnitHead, learn, pooled
from dynamick.retrofit.maps import Maps, means
from dynamick.retrofit.probe import DECAYS, fit_probe
from dynamick.retrofit.report import Row
from dynamick.retrofit.shares import agreed
from dynamick.retrofit.tuning import Choice, Trial, accuracy, choose, split
from dynamick.training.pruning import prune_head

ROUTED = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Decays of a Dynamic-K head's weight to choose from. They are AdamW's, and the rate is high: a usual decay leaves it dense."""
DENSE = (0.5, 1.5, 3.0, 6.0, 12.0)
"""Those of a dense head on units."""
SPARE = 1.1
"""A Dynamic-K head is to keep so many times K weights a class, or fewer."""


@dataclass(frozen=True)
class Images:
    """Maps of some images, what entered the classifier, and their classes."""

    maps: Maps
    means: Tensor
    labels: Tensor

    @classmethod
    def of(cls, maps: Maps, labels: Tensor) -> "Images":
        """The same with the means of the maps."""
        return cls(maps, means(maps), labels)


@dataclass(frozen=True)
class Work:
    """What all heads are learnt from and measured on.

    Attributes:
        train, val: images to learn from, and images that figures are from.
        classes: how many.
        seed: of weights and order.
        dtype: of the network's weights.
        tell: called with a stage's name and with the images seen in an epoch.
    """

    train: Images
    val: Images
    classes: int
    seed: int = 0
    dtype: torch.dtype = torch.float32
    tell: Callable[[int], Any] | None = None


@dataclass(frozen=True)
class TunedProbe:
    """A dense linear probe on the classifier's inputs.

    Attributes:
        choice: of its decay.
        row: its figures.
        logits: of all training images, shape (N, classes).
        unseen: the same of the probe of the same decay that has not seen the images held out.
    """

    choice: Choice
    row: Row
    logits: Tensor
    unseen: Tensor


def tuned_probe(work: Work) -> TunedProbe:
    """Choose the decay of a dense linear probe, and train it on all images."""
    x, y = work.train.means, work.train.labels
    learnt, held = split(y)
    logits: dict[float, Tensor] = {}

    def trial(decay: float) -> Trial:
        logits[decay] = fit_probe(x[learnt], y[learnt], work.classes, decay, work.seed, progress=work.tell).logits(x)
        return agreed(Trial(accuracy(logits[decay][held], y[held])))

    choice = choose(DECAYS, trial)
    began = time.monotonic()
    probe = fit_probe(x, y, work.classes, choice.value, work.seed, progress=work.tell)
    row = row_of("dense linear probe", probe.head, work.val.means, work.val.labels, choice.value, time.monotonic() - began)
    return TunedProbe(choice, row, probe.logits(x), logits[choice.value])


def tuned_units(
    work: Work, settings: Settings, decays: Sequence[float], teacher: Tensor | None = None, part: Tensor | None = None
) -> tuple[UnitHead, Choice, float]:
    """Units and a head on them.

    Args:
        work: the images.
        settings: all but the decay; their head may be of any kind.
        decays: to choose from. Of a Dynamic-K head, those that leave more than 1.1 K weights a class are taken only if all do.
        teacher: logits of all training images; None for no teacher.
        part: logits of a teacher that has not seen the images held out, for the choice.

    Returns:
        The network, the choice, and the seconds of the final training.
    """
    images, (learnt, held) = work.train, split(work.train.labels)

    def trial(decay: float) -> Trial:
        settings_now = replace(settings, decay=decay)
        net = learn(images.maps, images.labels, work.classes, settings_now, part, learnt, work.tell)
        top1 = accuracy(net.head(pooled(net, images.maps, held)), images.labels[held])
        return agreed(Trial(top1, sparsity(net.head.get_parameter("weight")).weights_per_class))

    kind = settings.kind
    choice = choose(decays, trial, SPARE * kind.k if isinstance(kind, Routed) else math.inf)
    began = time.monotonic()
    net = learn(images.maps, images.labels, work.classes, replace(settings, decay=choice.value), teacher, progress=work.tell)
    return net, choice, time.monotonic() - began


def units_within(work: Work, settings: Settings, budget: float, teacher: Tensor | None = None) -> tuple[UnitHead, float, float]:
    """Units and a head that L1 makes sparse, by the weakest penalty found that leaves at most so many weights a class.

    Nothing is chosen on the images held out: the budget decides the strength, and the head has no other decay.

    Args:
        work: the images.
        settings: all but the head and its decay.
        budget: weights a class, the mean.
        teacher: logits of all training images; None for no teacher.

    Returns:
        The network, the strength, and the seconds of all trainings.
    """
    images, began = work.train, time.monotonic()

    def train(strength: float) -> UnitHead:
        now = replace(settings, head=Proximal(strength), decay=0.0)
        return learn(images.maps, images.labels, work.classes, now, teacher, progress=work.tell)

    strength, net = weakest_within(train, lambda found: mean_weights(found.head), budget)
    return net, strength, time.monotonic() - began


def prune_units(net: UnitHead, maps: Maps) -> int:
    """Remove the weights that no training image routes, and the units that no class keeps; in place.

    Returns:
        How many of the training images' logits changed, bit for bit, summed in one order: 0 proves the pruning.
    """
    assert isinstance(net.head, DynamicLinear)
    return prune_head(net.head, list(pooled(net, maps).split(512)), net.units).changed


def row_of(name: str, head: Any, x: Tensor, labels: Tensor, decay: float | None = None, seconds: float | None = None) -> Row:
    """A head's figures on features (N, M) that it has not learnt from."""
    with torch.no_grad():
        logits = torch.cat([head(rows) for rows in x.split(4096)])
    found = sparsity(head.weight)
    return Row(
        name,
        accuracy(logits, labels),
        accuracy(logits, labels, 5),
        found.weights_per_class,
        found.max_per_class,
        int((head.weight.abs() >= 1e-3).any(0).sum()),
        decay,
        seconds,
    )
