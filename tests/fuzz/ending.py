"""How reading a folder of files ends: right, or in one line; all else is told."""

import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamick.errors import InputError

SECONDS = 30
"""What reading one small file may take."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fall(use: Callable[[Path], object], folder: Path) -> str | None:
    """What is wrong with how reading a folder ends; None where nothing is."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        try:
            with at_most(SECONDS):
                use(folder)
            return None
        except InputError as error:
            said = str(error)
        except (Exception, RecursionError) as error:
            return f"{type(error).__name__}: {error}"[:300]
    if not said.strip() or "\n" in said or len(said) > 2000:
        return f"{said.count(chr(10)) + 1} lines of {len(said)} letters: {said[:200]!r}"
    others = [str(each.message) for each in told if not issubclass(each.category, DeprecationWarning)]
    return f"a warning beside the line: {others[0][:200]}" if others else None
