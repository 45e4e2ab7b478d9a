"""Work shared by the processes of `torch.distributed`: every process takes every world-th batch."""

from typing import Any, TypeVar

import torch.distributed as dist

from dynamick import processes
from dynamick.dissection.counting import Counts
from dynamick.dissection.first_pass import FirstPass
from dynamick.dissection.thresholds import TopValues

T = TypeVar("T")


def gather(part: T) -> list[T]:
    """Every process's part, in the order of their numbers, on every process."""
    if not processes.active():
        return [part]
    parts: list[Any] = [None] * processes.world()
    dist.all_gather_object(parts, part)
    return parts


def merge_first(first: FirstPass) -> FirstPass:
    """What all processes saw, on each of them. Surviving maps are not moved."""
    if not processes.active():
        return first
    U, keep = first.values.units, first.values.count
    device, images = first.values.bound.device, first.images
    whole = FirstPass(TopValues(U, keep, device), None, first.top, images)
    for state in gather(first.state_dict()):
        part = FirstPass(TopValues(U, keep, device), None, first.top, images)
        part.load_state_dict(state)
        whole.merge(part)
    return whole


def merge_counts(counts: Counts) -> Counts:
    """What all processes counted, on each of them."""
    if not processes.active():
        return counts
    whole = counts.empty()
    for state in gather(counts.state_dict()):
        part = counts.empty()
        part.load_state_dict(state)
        whole.merge(part)
    return whole
