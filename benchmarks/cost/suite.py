"""What a suite is: cases as data, the ways to do each, and a check that each way is right."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Step = Callable[[], Any]


@dataclass(frozen=True)
class Suite:
    """Cases that the runner times.

    Attributes:
        about: one line, for the help.
        cases: of any type; `str(case)` names it in the table.
        ways: the names of the ways to do a case. The first is the yardstick: what a user would use instead.
        make: a case and a way to what is timed. What is made before is not timed.
        check: refuses a case whose ways are not right (AssertionError).
        once: ways that are too slow for pairs: they are timed once.
        memory_steps: how many steps a process of its own takes when memory is measured; 0 measures none.
        memory_processes: over so many processes the median is taken; where the allocator finds room differs between them.
        memory: which ways of a case are measured; None for all.
        small: a small case of the same kind. It loads what is loaded once, before memory is measured.
        added: measures memory in the timing process instead (a GPU's).
        notes: what else a row says, of a case, a way, the median seconds of all ways, and what the way's step returned.
        clock: seconds.
        pairs, warm: rounds that are timed, and not timed before.
        missing: why a case cannot run here, or None.
        with_data: cases of a data set, where the suite needs one (`--data`).
    """

    about: str
    ways: Callable[[Any], Sequence[str]]
    make: Callable[[Any, str], Step]
    check: Callable[[Any], None]
    cases: Sequence[Any] = ()
    once: frozenset[str] = frozenset()
    memory_steps: int = 0
    memory_processes: int = 1
    memory: Callable[[Any, str], bool] | None = None
    small: Callable[[Any], Any] | None = None
    added: Callable[[Step], int] | None = None
    notes: Callable[[Any, str, dict[str, float], Any], str] = field(default=lambda case, way, seconds, result: "")
    clock: Callable[[], float] = time.perf_counter
    pairs: int = 20
    warm: int = 3
    missing: Callable[[Any], str | None] = field(default=lambda case: None)
    with_data: Callable[[Path], Sequence[Any]] | None = None
