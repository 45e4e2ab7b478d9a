"""A network's last maps for many images: computed once, kept in bfloat16, read where they lie; or computed anew each time."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dynamick.comparison.cache import Enter, fill_cache, open_chunks, usual_batch
from dynamick.comparison.entering import entering, network_key
from dynamick.data.labelled import LabelledImages
from dynamick.data.loading import taken_ahead
from dynamick.nn import Place
from dynamick.preprocessing import Preprocessing
from dynamick.processes import active, first, rank, wait
from dynamick.retrofit.shares import Share, rows_of

BYTES = 2
"""Of a number in bfloat16."""
SPARE = 1.1
"""The disk must hold so many times the maps."""


class Maps(Protocol):
    """The maps of N images, each of P locations and C channels.

    shape: (N, P, C).
    """

    shape: tuple[int, int, int]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The maps of some images, in ascending order: int64 (n,) to bfloat16 (n, P, C)."""


class StoredMaps:
    """Maps in memory or in memory-mapped files.

    Args:
        chunks: in the order of the images; (n, P, C).
        kept: the places of the images that count, int64, ascending; None for all.
    """

    def __init__(self, chunks: Sequence[Tensor], kept: Tensor | None = None) -> None:
        self.chunks = list(chunks)
        self.ends = torch.tensor([len(each) for each in self.chunks]).cumsum(0)
        _, P, C = chunks[0].shape
        self.kept = torch.arange(sum(map(len, chunks))) if kept is None else kept
        self.shape = (len(self.kept), P, C)

    def __getitem__(self, rows: Tensor) -> Tensor:
        rows = self.kept[rows]
        numbers, counts = torch.bucketize(rows, self.ends, right=True).unique_consecutive(return_counts=True)
        starts = self.ends[numbers] - torch.tensor([len(self.chunks[number]) for number in numbers.tolist()])
        parts = zip(numbers.tolist(), starts.tolist(), rows.split(counts.tolist()), strict=True)
        return torch.cat([self.chunks[number][part - start] for number, start, part in parts])


class LiveMaps:
    """Maps that the network computes anew each time they are asked for.

    Args:
        enter: from images and their names to their maps.
        data: the images.
        batch_size: images a call of `enter`.
        cells, channels: of a map.
        kept: the places of the images that count, int64, ascending.
    """

    def __init__(self, enter: Enter, data: LabelledImages, batch_size: int, cells: int, channels: int, kept: Tensor) -> None:
        self.enter, self.data, self.batch_size, self.kept = enter, data, batch_size, kept
        self.shape = (len(kept), cells, channels)

    def __getitem__(self, rows: Tensor) -> Tensor:
        batches = [part.tolist() for part in self.kept[rows].split(self.batch_size)]
        taken = zip(batches, taken_ahead(self.data, batches), strict=True)
        return torch.cat([self.enter(images, [self.data.names[row] for row in part]) for part, (images, _) in taken])


def room_for(images: int, place: Place, folder: Path) -> tuple[int, int]:
    """How many bytes the maps of so many images take, and how many are free where the folder is or will be."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return images * max(1, place.cells) * place.channels * BYTES, shutil.disk_usage(there).free


def open_maps(
    model: nn.Module,
    head: str,
    place: Place,
    data: LabelledImages,
    prepare: Preprocessing,
    folder: Path,
    stored: bool = True,
    batch_size: int | None = None,
) -> tuple[Maps, Tensor, list[str]]:
    """The maps of the images that can be read, cached in a folder: an interrupted pass goes on where it stopped.

    Args:
        model: in evaluation mode, without a unit layer.
        head: the classifier's dotted name.
        place: where the maps are (`dynamick.nn.find_place`); vectors are maps of one location.
        data: the images.
        prepare: as the model's images are prepared.
        folder: for the cache; one process fills it at a time. Under torchrun each one fills a folder in it with its share.
        stored: False keeps nothing, and runs the network whenever maps are asked for.
        batch_size: images a forward pass; None takes what the device does fast.

    Returns:
        The maps, their images' labels, and the names of the images that cannot be read.

    Raises:
        InputError: as `dynamick.comparison.cache.fill_cache`; or a value is NaN or infinite (image and unit are named).
    """
    enter = partial(maps_entering, model, head, place, prepare)
    batch_size = batch_size or usual_batch(next(model.parameters()).device, data.side)
    if not stored:
        parts = [part.tolist() for part in torch.arange(len(data)).split(64)]
        labels = torch.cat([labels for _, labels in taken_ahead(data, parts, [])])
        kept = (labels >= 0).nonzero().flatten()
        live = LiveMaps(enter, data, batch_size, max(1, place.cells), place.channels, kept)
        return live, labels[kept], _names(data, labels < 0)
    key = {**network_key(model, head, prepare), "dtype": "bfloat16"}
    key["place"] = f"{place.side} of {place.module}"
    shares = rows_of(len(data))
    folders = [folder / f"share-{number}-of-{len(shares)}" for number in range(1, len(shares) + 1)] if active() else [folder]
    if len(shares[rank()]):
        # The whole of it, where one process is alone.
        own: Any = Share(data, shares[rank()]) if active() else data
        own_key = {**key, "data": own.fingerprint()}
        fill_cache(folders[rank()], own_key, own, enter, batch_size, progress=first(), skip=True)
    wait()
    chunks = [chunk for each, rows in zip(folders, shares, strict=True) if len(rows) for chunk in open_chunks(each)[1]]
    labels = torch.cat([each for _, each in chunks])
    kept = (labels >= 0).nonzero().flatten()
    return StoredMaps([x for x, _ in chunks], kept), labels[kept], _names(data, labels < 0)


def _names(data: LabelledImages, which: Tensor) -> list[str]:
    return [data.names[place] for place in which.nonzero().flatten().tolist()]


def maps_entering(
    model: nn.Module, head: str, place: Place, prepare: Preprocessing, images: Tensor, names: Sequence[str]
) -> Tensor:
    """The maps of some images: bfloat16, shape (B, P, C), on the CPU.

    Raises:
        InputError: as `dynamick.comparison.entering.entering`.
    """
    if not place.cells:
        return entering(model, head, prepare, images, names)[:, None].bfloat16()
    caught: list[Tensor] = []

    def keep(value: Tensor) -> None:
        caught.append(value.detach().flatten(2).transpose(1, 2).to("cpu", torch.bfloat16).contiguous())

    module = model.get_submodule(place.module)
    handle = (
        module.register_forward_pre_hook(lambda _, inputs: keep(inputs[0]))
        if place.side == "input"
        else module.register_forward_hook(lambda _, inputs, output: keep(output))
    )
    try:
        entering(model, head, prepare, images, names)
    finally:
        handle.remove()
    return caught[0]


def means(maps: Maps) -> Tensor:
    """Each image's mean over locations, float32, shape (N, C): what entered the classifier."""
    return torch.cat([maps[rows].float().mean(1) for rows in torch.arange(maps.shape[0]).split(512)])
