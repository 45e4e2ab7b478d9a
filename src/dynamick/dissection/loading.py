"""Parts of a data set's samples, batch by batch: images for the model, label maps for the counts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from dynamick.data.concepts import ConceptDataset
from dynamick.errors import InputError

Part = Callable[[ConceptDataset, int], tuple[str, Any]]


def load(
    dataset: ConceptDataset, part: Part, batches: Sequence[int], batch_size: int, workers: int
) -> Iterator[list[tuple[str, Any]]]:
    """One part of each sample of the given batches; batch b holds samples b * batch_size up to the next batch's first."""
    places = [[*range(batch * batch_size, min((batch + 1) * batch_size, len(dataset)))] for batch in batches]
    # A generator of its own: a dissection between two epochs must not change the training's random numbers.
    own = torch.Generator()
    parts = _Parts(dataset, part)
    for found in DataLoader(parts, batch_sampler=places, num_workers=workers, collate_fn=list, generator=own):
        for each in found:
            if isinstance(each, InputError):
                raise each
        yield found


class _Parts(Dataset[tuple[str, Any] | InputError]):
    """Parts of samples. If one is wrong, its error comes in its place: raised in another process, it would lose its form."""

    def __init__(self, dataset: ConceptDataset, part: Part) -> None:
        self.dataset, self.part = dataset, part

    def __getitem__(self, index: int) -> tuple[str, Any] | InputError:
        try:
            return self.part(self.dataset, index)
        except InputError as error:
            return error
