"""Images with several labels each, or none: ROOT/train.csv and ROOT/val.csv say which."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dynamick.data.class_folders import FolderImages
from dynamick.data.sources import Source
from dynamick.data.sources.folder import center_crop, opened
from dynamick.errors import InputError
from dynamick.files import read_table

FORM = "give a line `file,CLASS,CLASS,...`, and below it a file and 0 or 1 for each class"


@dataclass
class TableImages(FolderImages):
    """Images named in ROOT/SPLIT.csv, decoded when asked for: a column of files, then one of 0 and 1 for each class.

    Labels are int64, shape (N, classes). Classes are in alphabetical order. Files are below ROOT.

    Raises:
        InputError: the table is missing or has another form, or names an image that is not there.
    """

    def __post_init__(self) -> None:
        self.place = Path(self.root)
        self.samples, self.classes = _read(self.place, self.split)


def _read(root: Path, split: str) -> tuple[list[tuple[str, tuple[int, ...]]], list[str]]:
    path = root / f"{split}.csv"
    try:
        names, *lines = read_table(path) or [[]]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {FORM}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); {FORM}") from None
    classes = sorted(name.strip() for name in names[1:])
    if len(classes) < 2 or len(set(classes)) < len(classes) or "" in classes:
        raise InputError(f"{path}: its first line must name two classes or more, each once; {FORM}")
    order = [[name.strip() for name in names].index(name, 1) for name in classes]
    samples = [_sample(root, f"{path}, line {number}", line, order) for number, line in enumerate(lines, 2)]
    if not samples:
        raise InputError(f"{path}: names no images; {FORM}")
    return samples, classes


def _sample(root: Path, where: str, line: Sequence[str], order: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    cells = [cell.strip() for cell in line]
    if len(cells) != len(order) + 1:
        raise InputError(f"{where}: {len(cells)} cells for {len(order)} classes; {FORM}")
    if odd := next((cell for cell in cells[1:] if cell not in ("0", "1")), None):
        raise InputError(f"{where}: {odd[:50]!r} is neither 0 nor 1; {FORM}")
    file = root / cells[0]
    # Path.is_file raises for a name that is too long.
    if not os.path.isfile(file):  # noqa: PTH113
        raise InputError(f"{where}: {str(file)[:200]}: no such image; give its name below {root}")
    return str(file), tuple(int(cells[place]) for place in order)


SOURCE = Source("a table of images", partial(opened, TableImages), center_crop=center_crop, named_by_root=True)
