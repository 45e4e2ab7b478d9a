"""`import dynamick` with its layers beside `import torch`, in fresh processes, by processor time."""

import resource
import subprocess
import sys
from collections.abc import Callable

from benchmarks.cost.suite import Suite

PROGRAMS = {"torch": "import torch", "dynamick": "import dynamick; dynamick.DynamicLinear"}


def make(case: str, way: str) -> Callable[[], object]:
    """A process that imports, and ends."""
    return lambda: subprocess.run([sys.executable, "-c", PROGRAMS[way]], check=True)


def check(case: str) -> None:
    """Both can be imported."""
    for way in PROGRAMS:
        make(case, way)()


def children() -> float:
    """The processor time of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


SUITE = Suite(
    about="importing the package beside importing PyTorch",
    cases=["import"],
    ways=lambda case: tuple(PROGRAMS),
    make=make,
    check=check,
    clock=children,
    pairs=7,
    warm=0,
)
