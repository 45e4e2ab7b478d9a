"""Files that are whole or not there, whenever a process is killed or a disk is full; folders with one process at a time."""

import codecs
import contextlib
import csv
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dynamick.errors import InputError

NAMED = 40
"""A temporary file's name has so many letters of its file's name."""
TEMPORARY = re.compile(r"\..+\.\d+-\d+")
"""What a temporary file is called: its file, a process and a thread."""
LOCK = ".lock"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room."""
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
"""And where one may not write."""
UNFIT = (*FORBIDDEN, errno.ENAMETOOLONG)
"""Where the user named a place that cannot be."""

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks. UTF-32's begins like UTF-16's, so it is looked for first."""


def read_text(path: Path) -> str:
    """The text of a file as any editor saved it: UTF-8, or UTF-16 and UTF-32 with their mark.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is in another encoding.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    text = content.decode(encoding)
    if "\0" in text:
        place = content.index(b"\0")
        raise UnicodeDecodeError(encoding, content, place, place + 1, "a zero byte; save it as UTF-8")
    return text


def parse_json(text: str) -> Any:
    """The value that JSON says.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or nested too deeply; a UnicodeDecodeError is one.
    """
    return parse_json(read_text(path))


def read_table(path: Path) -> list[list[str]]:
    """The cells of a CSV file, line by line, without empty lines.

    Raises:
        OSError, UnicodeDecodeError: as `read_text`.
        csv.Error: it is no CSV.
    """
    return [line for line in csv.reader(io.StringIO(read_text(path), newline="")) if line]


def is_utf8(name: str) -> bool:
    """Whether a name is one in UTF-8; old archives leave others, which Python keeps but nobody else may write down."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def write_atomically(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file. At every moment either the whole old file or the whole new one is there.

    Args:
        path: the file, in a folder that is there.
        content: of the new file.
        durable: wait for the disk, so that the file also survives a loss of power.

    Raises:
        OSError: no space, no permission; it names the file, and the old one is untouched.
    """
    try:
        _write_beside(path, content, durable)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None


def _write_beside(path: Path, content: bytes, durable: bool) -> None:
    # A name may be as long as a file system takes; another process or thread may write the same file.
    begins = f".{path.name[:NAMED]}."
    temporary = path.with_name(f"{begins}{os.getpid()}-{threading.get_ident()}")
    if durable:
        # The others are many, in a folder of their own that is looked through as a whole.
        _take_away_of_the_dead(path.parent, begins)
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


def _take_away_of_the_dead(folder: Path, begins: str) -> None:
    """Take away the temporary files of one file whose processes have ended."""
    for path in folder.glob(f"{glob.escape(begins)}*"):
        found = re.fullmatch(r"(\d+)-\d+", path.name.removeprefix(begins))
        if found and not _is_running(int(found[1])):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        # Another user's.
        return True
    return True


def write_by(path: Path, write: Callable[[BinaryIO], Any], durable: bool = True) -> None:
    """Write what a function puts into an open file, such as a picture, atomically. All of it is in memory first.

    Raises:
        OSError: as `write_atomically`.
    """
    content = io.BytesIO()
    write(content)
    write_atomically(path, content.getvalue(), durable)


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON, atomically.

    Raises:
        OSError: as `write_atomically`.
    """
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a folder and keep other processes out of it. The lock ends with this process, in any case.

    Temporary files that a process left here when it died are taken away. A new folder that stays empty is taken away too.

    Raises:
        InputError: another process is at work in it, or it cannot be written.
    """
    try:
        new = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder / LOCK)
    except BlockingIOError:
        raise InputError(f"{folder}: another process is filling this; wait for it, or give another folder") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); give another") from None
    with lock:
        take_leftovers_away(folder)
        try:
            yield
        finally:
            _tidy(folder, new)


def _locked(path: Path) -> BinaryIO:
    """A file's lock, which ends when the file is closed.

    Raises:
        BlockingIOError: another process holds it.
    """
    while True:
        lock = path.open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it before may have taken the file away.
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        except BlockingIOError:
            lock.close()
            raise
        except FileNotFoundError:
            pass
        except OSError:
            # A file system without locks.
            return lock
        lock.close()


def take_leftovers_away(folder: Path) -> None:
    """Remove the temporary files in a folder, if there is one. No process may be writing into it."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _tidy(folder: Path, new: list[Path]) -> None:
    with contextlib.suppress(OSError):
        (folder / LOCK).unlink()
        # The first one that holds something ends it.
        for each in new:
            each.rmdir()


def why_no_folder(path: Path) -> str | None:
    """Why files cannot be written into a folder of that name, there or yet to be made; None if they can. Makes nothing."""
    try:
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
    except OSError as error:
        # Such as a name that is too long.
        return str(error.strerror)
    if not there.is_dir():
        return "it or a folder above it is a file"
    return None if os.access(there, os.W_OK) else f"{there} cannot be written to"


def told(error: OSError) -> str:
    """In words: which file the system refused, why, and what helps."""
    helps = "mend that, and run the same command again"
    if error.errno in FULL:
        helps = "make room, and run the same command again"
    elif error.errno in FORBIDDEN:
        helps = "give a folder of your own"
    elif error.errno == errno.ENAMETOOLONG:
        helps = "give a shorter name"
    elif error.errno == errno.ENOENT:
        helps = "it may have been removed meanwhile; run the same command again"
    return f"{error.filename}: {error.strerror}; {helps}"


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
