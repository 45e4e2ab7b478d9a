"""Samples that are read batch by batch, in this process or in others."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dynamick.data.labelled import LabelledImages
from dynamick.errors import InputError

AHEAD = 4
"""So many batches a thread are decoded before they are asked for."""


def taken_ahead(data: LabelledImages, batches: Iterable[Sequence[int]]) -> Generator[tuple[Tensor, Tensor], None, None]:
    """`data.take` of each batch of places, in order. Threads decode the next ones, one a core, while the caller computes.

    Raises:
        InputError: an image cannot be read, when its batch is asked for.
    """
    if data.in_memory:
        yield from map(data.take, batches)
        return
    threads = min(16, os.cpu_count() or 1)
    waiting: deque[Future[tuple[Tensor, Tensor]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(data.take, batch))
                if len(waiting) > AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # The caller may have stopped.
            for each in waiting:
                each.cancel()


class Batched:
    """Batches of samples. If a sample cannot be read, its `InputError` comes as it is, from other processes too.

    Args:
        read: gives the sample at a place.
        batches: the places of each batch.
        collate: makes a batch of its samples.
        workers: processes that read; 0 reads in this one.
        pinned: keep batches where they are copied fast to a GPU.
        generator: of the random numbers that the loader draws; None takes PyTorch's own.
    """

    def __init__(
        self,
        read: Callable[[int], Any],
        batches: list[list[int]],
        collate: Callable[[list[Any]], Any],
        workers: int = 0,
        pinned: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        self.loader: DataLoader[Any] = DataLoader(
            _Read(read),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_Collated(collate),
            pin_memory=pinned,
            generator=generator,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch


class _Read(Dataset[Any]):
    """An error comes in its sample's place: raised in another process, it would lose its form."""

    def __init__(self, read: Callable[[int], Any]) -> None:
        self.read = read

    def __getitem__(self, index: int) -> Any:
        try:
            return self.read(index)
        except InputError as error:
            return error


class _Collated:
    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        return next((each for each in samples if isinstance(each, InputError)), None) or self.collate(samples)
