"""Which files of a folder are images: the same ones for every command."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from dynamick.errors import InputError

IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".avif", ".jp2", ".heic", ".heif", ".jxl"),
)
"""The endings of image files, in lower case. If such a file cannot be read here, the reader names it."""
NOBODYS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
"""Folders that operating systems and storage devices make. Some hold small copies of images."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is not a user's data: hidden, or made by a system."""
    return name.startswith(".") or name in NOBODYS


def is_image(path: str | Path) -> bool:
    """Whether a file has an image's ending and is not hidden."""
    return _is_called_image(Path(path).name)


def _is_called_image(name: str) -> bool:
    return name.lower().endswith(IMAGES) and not is_hidden(name)


def images_under(root: str | Path, homes: Collection[str] | None = None) -> list[str]:
    """The paths of the images in a folder and in the folders in it, in no order. What is hidden does not count.

    Each counts once. A link does not count if it leads to what counts elsewhere, or to a folder that holds the link.

    Args:
        root: the folder.
        homes: real paths of folders whose images count on their own; None stands for the folder itself.

    Raises:
        InputError: a folder cannot be read.
    """
    own = os.path.realpath(root)
    homes = {own} if homes is None else homes
    found, places, seen = [], [str(root)], {own}
    while places:
        place = places.pop()
        for entry in _entries(place):
            if entry.is_symlink() and _counts_elsewhere(entry.path, os.path.realpath(place), homes):
                continue
            if not _is_folder(entry):
                found += [entry.path] if _is_called_image(entry.name) else []
            elif (real := os.path.realpath(entry.path)) not in seen:
                seen.add(real)
                places.append(entry.path)
    return found


def folders_in(root: str | Path) -> list[str]:
    """The names of the folders in a folder, in alphabetical order; hidden ones do not count.

    Raises:
        InputError: it cannot be read.
    """
    return sorted(entry.name for entry in _entries(str(root)) if _is_folder(entry))


def _entries(place: str) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(place) as entries:
            yield from (entry for entry in entries if not is_hidden(entry.name))
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror}); make it readable, or take it away") from None


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself. Whatever opens it will say so.
        return False


def _counts_elsewhere(link: str, place: str, homes: Collection[str]) -> bool:
    """Whether a link in a folder leads upwards, or to what is counted in one of the homes anyway."""
    real = os.path.realpath(link)
    if Path(real).is_dir() and any(is_in(home, real) for home in (place, *homes)):
        return True
    home = next((str(each) for each in (Path(real), *Path(real).parents) if str(each) in homes), None)
    return home is not None and not any(map(is_hidden, Path(real).relative_to(home).parts))


def is_in(path: str, folder: str) -> bool:
    """Whether a real path is that of a folder, or of something in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
