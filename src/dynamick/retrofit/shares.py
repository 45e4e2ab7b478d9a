"""A retrofit by several processes (torchrun): each keeps the maps of its share of the images, and they train together."""

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dynamick.data.labelled import LabelledImages
from dynamick.processes import active, first, rank, world

T = TypeVar("T")


class Share:
    """Some images in a row, as `LabelledImages`.

    Args:
        whole: all images.
        rows: which ones.
    """

    def __init__(self, whole: LabelledImages, rows: range) -> None:
        self.whole, self.rows = whole, rows
        self.names, self.labels = [whole.names[row] for row in rows], whole.labels[rows.start : rows.stop]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """As `LabelledImages.take`."""
        return self.whole.take([self.rows[place] for place in places])

    def fingerprint(self) -> str:
        """That of all images, and which ones these are."""
        return f"{self.whole.fingerprint()} {self.rows.start}-{self.rows.stop}"


def rows_of(images: int) -> list[range]:
    """The images of each process, about as many of each."""
    ends = [images * number // world() for number in range(world() + 1)]
    return [range(first, end) for first, end in itertools.pairwise(ends)]


def agreed(value: T) -> T:
    """What the first process found, on each of them: rounding must not let them go different ways."""
    if not active():
        return value
    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


def own_part(places: Tensor) -> Tensor:
    """This process's part of a batch. One with fewer than two images a process is not divided: each computes all of it."""
    return places[rank() :: world()] if len(places) >= 2 * world() else places


@torch.no_grad()
def average_gradients(net: nn.Module, share: float) -> None:
    """Make each gradient the mean over all images of a batch.

    Args:
        net: its gradients are means over a part.
        share: the part's share of the batch, 0..1; 1 where it is the whole batch.
    """
    if not active() or share == 1:
        return
    found = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    flat = share * torch.cat([each.flatten() for each in found])
    dist.all_reduce(flat)
    for each, values in zip(found, flat.split([each.numel() for each in found]), strict=True):
        each.copy_(values.view_as(each))


@torch.no_grad()
def average_buffers(net: nn.Module) -> None:
    """Make the running statistics the means of those of all processes."""
    if active():
        for buffer in net.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= world()


def only_first(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Speak where the first process does, and nowhere else."""
    return tell if first() else lambda line: None


def own_device(device: str) -> str:
    """On a machine with several GPUs each process takes its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if device == "cuda" and active() else device
