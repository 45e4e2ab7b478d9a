"""The processes that `torchrun` starts: how many there are, which one this is, and what the first one does for all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


def active() -> bool:
    """Whether several processes have joined."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if active() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if active() else 0


def first() -> bool:
    """Whether this process writes and speaks for all. Before they join, torchrun's RANK says so."""
    return (rank() if active() else int(os.environ.get("RANK", 0))) == 0


def wait() -> None:
    """Until all processes are here."""
    if active():
        dist.barrier()


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that `torchrun` started (WORLD_SIZE). With one process, or if they have joined, it does nothing."""
    joins = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if joins:
        dist.init_process_group("gloo")
    try:
        yield
    finally:
        if joins:
            dist.destroy_process_group()
