"""Work shared by the processes of `torch.distributed`: every process takes every world-th batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist

from dynamick.dissection.counting import Counts
from dynamick.dissection.first_pass import FirstPass
from dynamick.dissection.thresholds import TopValues

T = TypeVar("T")


def active() -> bool:
    """Are there several processes?"""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if active() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if active() else 0


def gather(part: T) -> list[T]:
    """Every process's part, in the order of their numbers, on every process."""
    if not active():
        return [part]
    parts: list[Any] = [None] * world()
    dist.all_gather_object(parts, part)
    return parts


def merge_first(first: FirstPass) -> FirstPass:
    """What all processes saw, on each of them. Surviving maps are not moved."""
    if not active():
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
    if not active():
        return counts
    whole = counts.empty()
    for state in gather(counts.state_dict()):
        part = counts.empty()
        part.load_state_dict(state)
        whole.merge(part)
    return whole


@contextmanager
def processes() -> Iterator[None]:
    """Join the processes that `torchrun` started (WORLD_SIZE). With one process, or if they have joined, it does nothing."""
    joins = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if joins:
        dist.init_process_group("gloo")
    try:
        yield
    finally:
        if joins:
            dist.destroy_process_group()
