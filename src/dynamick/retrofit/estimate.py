"""How long a retrofit takes: measured on a few steps of each stage, before the first image is kept."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamick.comparison.cache import Enter
from dynamick.data.labelled import LabelledImages
from dynamick.data.loading import taken_ahead
from dynamick.retrofit.learning import Settings, seconds_of
from dynamick.retrofit.maps import Maps
from dynamick.retrofit.probe import BATCH, EPOCHS, fit_probe, passes

LEARNT = 0.8
"""The share of the images that a decay is tried on."""
MEASURED = 6
"""So many batches of images are timed, after one that warms up."""


class BlankMaps:
    """Maps of nothing, to time what is done with them.

    Args:
        shape: (N, P, C).
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.rand(len(rows), *self.shape[1:]).bfloat16()


@dataclass(frozen=True)
class Heads:
    """How many trainings there are, and how long they take.

    Attributes:
        probe, dense, routed: seconds of one training on all images: of the probe, and of units under either head.
        decays: for each of the three how many there are to choose from.
    """

    probe: float
    dense: float
    routed: float
    decays: tuple[int, int, int]

    @property
    def seconds(self) -> float:
        """Of all."""
        each = zip((self.probe, self.dense, self.routed), self.decays, strict=True)
        return sum(seconds * trainings(decays) for seconds, decays in each)


def trainings(decays: int) -> float:
    """About how many trainings on all images a choice among so many decays and the final training are.

    Of the decays at least two are tried, and seldom all.
    """
    return LEARNT * (min(2, decays) + 0.4 * max(0, decays - 2)) + 1


def seconds_of_heads(maps: Maps, classes: int, settings: Sequence[Settings], decays: tuple[int, int, int]) -> Heads:
    """Time some steps of each kind of training.

    Args:
        maps: of the images to learn from.
        classes: how many.
        settings: of the dense and of the routed head on units.
        decays: how many there are to choose from, of the probe and of both heads.
    """
    images, labels = maps.shape[0], torch.zeros(maps.shape[0], dtype=torch.int64)
    rows = min(images, 4 * BATCH)
    x, few = torch.rand(rows, maps.shape[2]), labels[:rows]
    began = time.monotonic()
    fit_probe(x, few, classes, 1.0, epochs=1)
    batch = min(BATCH, rows)
    step = (time.monotonic() - began) / (passes(1, rows, batch) * (rows // batch))
    batch = min(BATCH, images)
    probe = step * passes(EPOCHS, images, batch) * (images // batch)
    dense, routed = (seconds_of(maps, labels, classes, each) for each in settings)
    return Heads(probe, dense, routed, decays)


def seconds_of_pass(enter: Enter, images: LabelledImages, batch_size: int, count: int) -> float:
    """About how long a network takes to run once for so many images: some batches are timed, with their decoding."""
    few = list(range(min(len(images), batch_size * (MEASURED + 1))))
    batches = [few[start : start + batch_size] for start in range(0, len(few), batch_size)]
    taken = taken_ahead(images, batches, [])
    began, seen = time.monotonic(), 0
    for number, batch in enumerate(batches):
        enter(next(taken)[0], [images.names[place] for place in batch])
        if number == 0 and len(batches) > 1:
            began = time.monotonic()
        else:
            seen += len(batch)
    return (time.monotonic() - began) / seen * count
