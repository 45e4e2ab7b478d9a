"""How far a long run is: images a second and the time left, on one line of stderr; a line now and then where that is a file."""

import sys
import time
from datetime import timedelta

LEAST_SECONDS, LEAST_SECONDS_IN_FILE = 0.2, 10.0


class Progress:
    """Counts images of a phase of the work; shows nothing where `show` is False.

    Args:
        phase: what is being done.
        total: how many images this process will see.
        done: how many were done by an earlier, interrupted run.
    """

    def __init__(self, phase: str, total: int, done: int = 0, show: bool = True) -> None:
        self.phase, self.total, self.done, self.show = phase, total, done, show
        self._before, self._start = done, time.perf_counter()
        self._live = sys.stderr.isatty()
        self._every = LEAST_SECONDS if self._live else LEAST_SECONDS_IN_FILE
        self._shown = self._start

    def step(self, images: int) -> None:
        """So many images more are done."""
        self.done += images
        now = time.perf_counter()
        if self.show and (now - self._shown > self._every or self.done >= self.total):
            self._shown = now
            rate = (self.done - self._before) / max(now - self._start, 1e-9)
            left = timedelta(seconds=round((self.total - self.done) / max(rate, 1e-9)))
            end = "\n" if self.done >= self.total or not self._live else ""
            line = f"{self.phase}: {self.done}/{self.total} images, {rate:.1f} images/s, {left} left"
            print(f"\r{line:<72}" if self._live else line, end=end, file=sys.stderr, flush=True)
