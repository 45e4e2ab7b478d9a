"""Parts of a data set's samples, batch by batch: images for the model, label maps for the counts."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from dynamick.data.concepts import ConceptDataset
from dynamick.data.loading import Batched

Part = Callable[[ConceptDataset, int], tuple[str, Any]]


def load(
    dataset: ConceptDataset, part: Part, batches: Sequence[int], batch_size: int, workers: int
) -> Iterator[list[tuple[str, Any]]]:
    """One part of each sample of the given batches; batch b holds samples b * batch_size up to the next batch's first."""
    places = [[*range(batch * batch_size, min((batch + 1) * batch_size, len(dataset)))] for batch in batches]
    # A generator of its own: a dissection between two epochs must not change the training's random numbers.
    return iter(Batched(partial(part, dataset), places, list, workers, generator=torch.Generator()))
