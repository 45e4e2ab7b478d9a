"""Write Broden's directory format (see `dynamick.data.broden`), with the frequencies and coverages of its labels."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dynamick.data.concepts import Label
from dynamick.errors import InputError
from dynamick.files import write_atomically, write_by

INDEX_COLUMNS = ("image", "split", "ih", "iw", "sh", "sw")
LABEL_COLUMNS = ("number", "name", "category", "frequency", "coverage", "syns")
CATEGORY_COLUMNS = ("name", "first", "last", "count", "frequency")
CODE_COLUMNS = ("code", "number", "name", "frequency", "coverage")
MOST = 2**16 - 1
"""The largest label number that two channels of a PNG can hold."""


class Record(NamedTuple):
    """One image to write.

    name: the file's name without its ending, unique; it may contain `/`.
    split: such as `train` or `val`.
    image: uint8, shape (H, W, 3), RGB.
    maps: category -> pixel maps of label numbers, integer arrays of shape (h, w), and whole-image labels, ints.
    """

    name: str
    split: str
    image: NDArray[np.uint8]
    maps: dict[str, list[NDArray[Any] | int]]


def write(root: str | Path, labels: Sequence[Label], records: Iterable[Record]) -> None:
    """Write a directory in Broden's format, all images and label maps as PNGs. Frequencies and coverages are counted.

    index.csv is written last: a directory that has one is complete. A label that is used in several categories is listed
    in all of them, and `Broden` reads it back with the category of its largest coverage. Maps without any label are left out.

    Args:
        root: a folder without an index.csv; made when there is none.
        labels: the labels; `category` is the one to list for labels that no record uses.
        records: the images; label maps are all of one size.

    Raises:
        InputError: the folder already holds a data set, or a label or record is none that the format can hold.
    """
    root = Path(root)
    if (root / "index.csv").exists():
        raise InputError(f"{root}: already holds a data set (index.csv); give an empty folder")
    writer = _Writer(root, labels)
    rows = [writer.row(record) for record in records]
    if not rows:
        raise InputError(f"{root}: no records to write; give one or more")
    for row in rows:
        row["sh"], row["sw"] = writer.map_size or (rows[0]["ih"], rows[0]["iw"])
    categories = writer.write_labels()
    _write_csv(root / "index.csv", (*INDEX_COLUMNS, *categories), rows)


class _Writer:
    """What has been written: files, the size of label maps, and for (label number, category) its frequency and coverage."""

    def __init__(self, root: Path, labels: Sequence[Label]) -> None:
        self.root = root
        self.labels = {label.number: label for label in labels}
        if not labels or len(self.labels) != len(labels):
            raise InputError("labels: none, or a number given twice; give one or more, each with a number of its own")
        for label in labels:
            if not 1 <= label.number <= MOST:
                raise InputError(f"labels: {label.name!r} has number {label.number}; numbers go from 1 to {MOST}")
            _check_category(label.category)
        self.files: set[str] = set()
        self.map_size: tuple[int, ...] | None = None
        self.frequency: dict[tuple[int, str], int] = defaultdict(int)
        self.coverage: dict[tuple[int, str], float] = defaultdict(float)

    def row(self, record: Record) -> dict[str, Any]:
        """Write one record's files and give its row of index.csv, but for sh and sw."""
        name, image = record.name, record.image
        parts = name.split("/")
        if not all(parts) or {".", ".."} & set(parts) or re.search(r"[;\\\r\n]", name):
            raise InputError(f"record {name!r}: not a name; it must be a relative path without ; and \\")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InputError(f"record {name!r}: image is {image.dtype} of shape {image.shape}; it must be uint8, (H, W, 3)")
        if not record.split:
            raise InputError(f"record {name!r}: no split; give such as train or val")
        file = self._save(f"{name}.png", image)
        cells = {category: self._cell(name, category, entries) for category, entries in record.maps.items()}
        labelled = {category: cell for category, cell in cells.items() if cell}
        return {"image": file, "split": record.split, "ih": image.shape[0], "iw": image.shape[1], **labelled}

    def _cell(self, name: str, category: str, entries: Sequence[NDArray[Any] | int]) -> str:
        """Write one category's label maps and give its cell in index.csv."""
        _check_category(category)
        maps = [np.asarray(entry) for entry in entries]
        for each in maps:
            if each.ndim not in (0, 2) or each.dtype.kind not in "ui" or not each.size:
                what = f"{each.dtype} of shape {each.shape}"
                raise InputError(f"record {name!r}: a {category} label is {what}; give ints and (h, w) maps of integers")
            if each.ndim == 2 and each.shape != (self.map_size or each.shape):
                raise InputError(f"record {name!r}: a {category} map is {each.shape}; it must be {self.map_size} as the first")
            self.map_size = each.shape if each.ndim else self.map_size
        maps = [each.astype(np.int64) for each in maps if each.any()]
        if not maps:
            return ""
        self._count(name, category, maps)
        cell = []
        for i, each in enumerate(maps):
            colours = np.stack([each & 255, each >> 8, np.zeros_like(each)], -1).astype(np.uint8)
            file = f"{name}_{category}{f'_{i}' if i else ''}.png"
            cell.append(self._save(file, colours) if each.ndim else str(each))
        return ";".join(cell)

    def _count(self, name: str, category: str, maps: list[NDArray[np.int64]]) -> None:
        """Count one image's labels of one category; a pixel that has a label in several maps is counted once."""
        size = np.broadcast_shapes((1, 1), *(each.shape for each in maps))
        maps_Lhw = np.stack([np.broadcast_to(each, size) for each in maps])
        for number in np.unique(maps_Lhw[maps_Lhw != 0]).tolist():
            if number not in self.labels:
                raise InputError(
                    f"record {name!r}: {category} label {number} is unknown; it must be one of the labels' numbers"
                )
            self.frequency[number, category] += 1
            self.coverage[number, category] += float((maps_Lhw == number).any(0).mean())

    def _save(self, file: str, pixels: NDArray[np.uint8]) -> str:
        """Write an image file and give its name."""
        if file in self.files:
            raise InputError(f"{file}: written already; every record must have a name of its own")
        self.files.add(file)
        path = self.root / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_by(path, partial(Image.fromarray(pixels).save, format="PNG", compress_level=1), durable=False)
        return file

    def write_labels(self) -> list[str]:
        """Write label.csv, category.csv and c_*.csv, and give the categories."""
        used: dict[int, list[str]] = {number: [] for number in sorted(self.labels)}
        for number, category in sorted(self.frequency, key=lambda key: -self.frequency[key]):
            used[number].append(category)
        members: dict[str, list[dict[str, Any]]] = defaultdict(list)
        rows = []
        for number, names in used.items():
            label = self.labels[number]
            keys = [(number, category) for category in names or [label.category]]
            for key in keys:
                counts = {"frequency": self.frequency[key], "coverage": self.coverage[key]}
                members[key[1]].append({"number": number, "name": label.name, **counts})
            listed = ";".join(f"{category}({self.frequency[number, category]})" for _, category in keys)
            total = {"frequency": sum(self.frequency[key] for key in keys), "coverage": sum(self.coverage[key] for key in keys)}
            rows.append({"number": number, "name": label.name, "category": listed, **total})
        for category, codes in members.items():
            most_first = sorted(codes, key=lambda row: -row["frequency"])
            coded = [{"code": code, **row} for code, row in enumerate(most_first, 1)]
            _write_csv(self.root / f"c_{category}.csv", CODE_COLUMNS, coded)
        categories = sorted(members)
        _write_csv(self.root / "category.csv", CATEGORY_COLUMNS, [_summary(name, members[name]) for name in categories])
        _write_csv(self.root / "label.csv", LABEL_COLUMNS, [{**row, "coverage": f"{row['coverage']:f}"} for row in rows])
        return categories


def _check_category(name: str) -> None:
    """Raise InputError if index.csv and label.csv could not hold this name of a category."""
    if not re.fullmatch(r"[^;,()/\\\s]+", name) or name in INDEX_COLUMNS:
        raise InputError(f"category {name!r}: must be one word without ; , ( ) / \\ and none of {', '.join(INDEX_COLUMNS)}")


def _summary(category: str, codes: list[dict[str, Any]]) -> dict[str, Any]:
    """A category's row in category.csv."""
    numbers = [row["number"] for row in codes]
    frequency = sum(row["frequency"] for row in codes)
    return {"name": category, "first": min(numbers), "last": max(numbers), "count": len(codes), "frequency": frequency}


def _write_csv(path: Path, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Write a CSV file whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
