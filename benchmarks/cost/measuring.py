"""Timing by turns in one process, that process's memory, and the machine."""

import contextlib
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def in_turn(
    steps: dict[str, Callable[[], Any]], rounds: int, warm: int = 5, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each step in each round, after `warm` untimed ones.

    The order alternates, so that none always runs on warmer caches.
    """
    for step in steps.values():
        for _ in range(warm):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(rounds):
        for name in list(steps)[:: -1 if index % 2 else 1]:
            began = clock()
            steps[name]()
            seconds[name].append(clock() - began)
    return seconds


def ratios(seconds: dict[str, list[float]], name: str) -> list[float]:
    """A step's seconds over the first one's, round by round."""
    return [own / first for own, first in zip(seconds[name], next(iter(seconds.values())), strict=True)]


def interval(ratios: list[float]) -> tuple[float, float]:
    """A 95 % interval of the median, from order statistics."""
    ordered, n = sorted(ratios), len(ratios)
    low = max(0, math.floor(n / 2 - 0.98 * math.sqrt(n)))
    return ordered[low], ordered[n - 1 - low]


def machine() -> dict[str, Any]:
    """Cores, threads, PyTorch and the instructions that it found."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def peak_anew() -> int:
    """The memory that this process holds now, in bytes: `peak` counts from here on, where the system lets it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The most memory that this process ever held, in bytes. Not getrusage's: a new process begins with its parent's there."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
