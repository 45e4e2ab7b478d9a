"""How far a long run is: tqdm's bar on a terminal. If stderr is a file, a line now and then."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
EVERY, EVERY_IN_FILE = 0.2, 10.0
"""Seconds between two looks at a bar, and between two lines in a file."""
LINE = "{desc}: {n_fmt}/{total_fmt}{unit}, {rate_fmt}, {remaining} left{postfix}"


def bar(phase: str, total: int, done: int = 0, show: bool = True, unit: str = "images") -> "tqdm[Any]":
    """A bar of tqdm's: `update(n)` it as the work goes on, and `close()` it, or use it in a `with`.

    Args:
        phase: what is being done.
        total: of how many units of work.
        done: how many an earlier, interrupted run has done.
        show: False shows nothing.
        unit: what is counted.
    """
    given: dict[str, Any] = {"desc": phase, "total": total, "initial": done, "disable": not show, "unit": f" {unit}"}
    if sys.stderr.isatty():
        return tqdm(**given, mininterval=EVERY, dynamic_ncols=True)
    return _Lines(**given, mininterval=EVERY_IN_FILE, delay=EVERY_IN_FILE, miniters=1, bar_format=LINE)


def passing(phase: str, items: Sequence[T], show: bool = True, unit: str = "images") -> Iterator[T]:
    """The items one by one, with a bar that says how many are done."""
    with bar(phase, len(items), show=show, unit=unit) as shown:
        for item in items:
            yield item
            shown.update(1)


class _Lines(tqdm):  # type: ignore[type-arg]
    """Ends a line where tqdm would go back to its beginning. In a file this could not be read."""

    monitor_interval = 0

    def close(self) -> None:
        # A finished run shows its last line. A run that was refused at once shows none.
        if self.n == self.total:
            self.delay = 0
        super().close()

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        began = False

        def show(line: str) -> None:
            nonlocal began
            # tqdm itself ends the last line.
            print("\n" * began + line, end="", file=file, flush=True)
            began = True

        return show
