"""Samples that are read batch by batch, in this process or in others."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dynamick.data.labelled import LabelledImages
from dynamick.errors import InputError

AHEAD = 4
"""So many batches a thread are decoded before they are asked for."""


def taken_ahead(
    data: LabelledImages, batches: Iterable[Sequence[int]], refused: list[str] | None = None
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """`data.take` of each batch of places, in order. Threads decode the next ones, one a core, while the caller computes.

    Args:
        data: the images.
        batches: places of images.
        refused: a list that gets a line for each image that cannot be read; in its batch stand zeros, and the label -1.

    Raises:
        InputError: without such a list an image cannot be read, when its batch is asked for.
    """
    take = data.take if refused is None else partial(_take_what_can_be_read, data, refused)
    if data.in_memory:
        yield from map(data.take, batches)
        return
    threads = min(16, os.cpu_count() or 1)
    waiting: deque[Future[tuple[Tensor, Tensor]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(take, batch))
                if len(waiting) > AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # The caller may have stopped.
            for each in waiting:
                each.cancel()


def first_readable(data: LabelledImages, count: int) -> Tensor:
    """The first images that can be read: uint8 (n, 3, H, W), with n at most `count`.

    Raises:
        InputError: none can be read.
    """
    refused: list[str] = []
    found: list[Tensor] = []
    for place in range(len(data)):
        images, labels = _take_what_can_be_read(data, refused, [place])
        found += [images] * (labels.tolist() != [-1])
        if len(found) == count:
            break
    if not found:
        raise InputError(f"{refused[0]}; nor can any other image")
    return torch.cat(found)


def _take_what_can_be_read(data: LabelledImages, refused: list[str], places: Sequence[int]) -> tuple[Tensor, Tensor]:
    try:
        return data.take(places)
    except InputError:
        images = torch.zeros(len(places), 3, data.side, data.side, dtype=torch.uint8)
        labels = torch.full((len(places),), -1)
    for row, place in enumerate(places):
        try:
            [images[row]], [labels[row]] = data.take([place])
        except InputError as error:
            refused.append(str(error))
    return images, labels


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
