"""Python's own audit of a process: every file that it makes, renames or takes away is a moment at which it may die."""

import os
import re
import signal
import sys
from pathlib import Path

WRITES = re.compile(r"[wax+]")
NUMBERS = re.compile(r"\d{4,}")
"""Of processes and threads, in the names of temporary files."""
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")


class Moments:
    """Counts what this process is about to change below a folder, and ends it at a chosen moment, as `kill -9` does.

    The moment after a change is the moment before the next one: nothing else on the disk differs. A rename has a second moment,
    in which what is renamed was only half written.

    Args:
        folder: what is watched.
        last: the moment to die at, from 1 up; None dies at none.
    """

    def __init__(self, folder: Path, last: int | None = None) -> None:
        self.folder, self.last, self.seen = folder.resolve(), last, list[str]()
        self.process = os.getpid()
        sys.addaudithook(self._hear)

    def reached(self, what: str, half: Path | None = None) -> None:
        """A moment has come."""
        self.seen.append(what)
        if len(self.seen) != self.last:
            return
        if half is not None:
            os.truncate(half, half.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    def _hear(self, event: str, given: tuple[object, ...]) -> None:
        if os.getpid() != self.process or not (event in CHANGES or (event == "open" and _writes(given[1], given[2]))):
            return
        path = self._watched(given[0])
        if path is None:
            return
        what = f"{event} {NUMBERS.sub('N', str(path.relative_to(self.folder)))}"
        self.reached(what)
        if event == "os.rename" and path.is_file():
            self.reached(f"{what}, half written", path)

    def _watched(self, given: object) -> Path | None:
        """A file or folder below what is watched; None where it is elsewhere."""
        if not isinstance(given, str | bytes | os.PathLike):
            return None
        path = Path.cwd() / os.fsdecode(given)
        return path if path.is_relative_to(self.folder) else None


def _writes(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return bool(WRITES.search(mode))
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
