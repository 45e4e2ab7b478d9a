"""Files that are whole or not there, whenever a process is killed or a disk is full."""

import hashlib
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAMED = 40
"""So many letters of its name a temporary file keeps."""


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
    # A name may be as long as a file system takes; another process or thread may write the same file.
    temporary = path.with_name(f".{path.name[:NAMED]}.{os.getpid()}-{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
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


def fingerprint(about: Any, files: Iterable[Path]) -> str:
    """A checksum of plain values and of some files, by their sizes and times of change."""
    sha = hashlib.sha256(repr(about).encode(errors="surrogateescape"))
    for file in files:
        try:
            stat = file.stat()
            sha.update(f"{stat.st_size} {stat.st_mtime_ns} ".encode())
        except OSError:
            # Who opens it says so.
            sha.update(b"missing ")
    return sha.hexdigest()
