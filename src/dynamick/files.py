"""Files that are whole or not there, whenever a process is killed or a disk is full."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file so that at every moment either the old or the new one is there whole.

    Args:
        path: the file, in a folder that is there.
        content: what it is to hold.
        durable: wait for the disk, so that it survives a loss of power as well.

    Raises:
        OSError: no space, no permission; it names the file, and the old one is untouched.
    """
    try:
        _write_beside(path, content, durable)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None


def _write_beside(path: Path, content: bytes, durable: bool) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON, atomically.

    Raises:
        OSError: as `write_atomically`.
    """
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def why_no_folder(path: Path) -> str | None:
    """Why files cannot be written into a folder of that name, there or yet to be made; None where they can. Makes nothing."""
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        return "it or a folder above it is a file"
    return None if os.access(there, os.W_OK) else f"{there} cannot be written to"
