"""Broden's directory format, read and written: images with maps of label numbers, from Network Dissection.

A directory holds
    images/       the images and the label maps: PNGs, label = R + 256 * G, 0 = unlabelled
    index.csv     image,split,ih,iw,sh,sw,CATEGORY...: sizes of image and label maps, and what labels the image in each
                  category: files of label maps and numbers of whole-image labels, separated by `;`
    label.csv     number,name,category,frequency,coverage,syns, where category is such as `part(441);object(49)`
    category.csv  name,first,last,count,frequency
    c_CATEGORY.csv  code,number,name,frequency,coverage
A frequency is a number of images. A coverage is too, but each image counts only by the share of its pixels.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dynamick.data.broden_writer import INDEX_COLUMNS, MOST, Record, write
from dynamick.data.concepts import Label, Sample
from dynamick.data.decode import read_image, read_label_map, text
from dynamick.errors import InputError
from dynamick.files import fingerprint, read_table

__all__ = ["Broden", "Label", "Record", "Row", "Tables", "read_tables", "write"]


class Row(NamedTuple):
    """One line of index.csv. cells: category -> files of label maps (str) and numbers of whole-image labels (int)."""

    image: str
    split: str
    image_size: tuple[int, int]
    map_size: tuple[int, int]
    cells: dict[str, list[str | int]]


class Tables(NamedTuple):
    """The content of a directory's CSV files, and what is wrong with them.

    listed: label number -> the categories that label.csv names for it.
    """

    labels: list[Label]
    categories: list[str]
    rows: list[Row]
    listed: dict[int, list[str]]
    problems: list[str]


class Broden(Dataset[Sample]):
    """A directory in Broden's format, as a `ConceptDataset`.

    Args:
        root: the directory.
        split: only the images of this split (`train` or `val`); all when None.

    Raises:
        InputError: a CSV file is missing or wrong, label maps are of several sizes, or nothing is labelled. Indexing
            raises it for a missing or unreadable file, another size than index.csv says, and unknown label numbers.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> broden = dk.data.Broden("scenes")
    >>> len(broden), broden[0].image.shape
    (20, torch.Size([3, 32, 32]))
    """

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        self.root = Path(root)
        tables = read_tables(self.root)
        if tables.problems:
            raise InputError(f"{tables.problems[0]} (the first of {len(tables.problems)} problems)")
        self.labels, self.categories = tables.labels, tables.categories
        self.map_size = tables.rows[0].map_size
        splits = sorted({row.split for row in tables.rows})
        if split is not None and split not in splits:
            raise InputError(f"{self.root / 'index.csv'}: no split {split!r}; there are {', '.join(splits)}")
        self._rows = [row for row in tables.rows if split in (None, row.split)]
        self._known = np.zeros(MOST + 2, bool)  # the last one is for all numbers that are too large
        self._known[[0, *(label.number for label in self.labels)]] = True

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.name(index), self.image(index), self.maps(index))

    def name(self, index: int) -> str:
        """The file of one image, below images/."""
        return self._rows[index].image

    def fingerprint(self) -> str:
        """A checksum of what index.csv says and of the files that it names, by their sizes and times of change."""
        files = (row.image for row in self._rows)
        maps = (name for row in self._rows for name in _files(row.cells))
        return fingerprint(self._rows, (self.root / "images" / name for name in (*files, *maps)))

    def image(self, index: int) -> Tensor:
        """One image alone, as `Sample.image`: no label map is decoded."""
        image = read_image(self.root / "images" / self._rows[index].image).transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(image))

    def maps(self, index: int) -> dict[str, Tensor]:
        """One image's label maps alone, as `Sample.maps`: the image is not decoded."""
        row = self._rows[index]
        maps = {category: self._maps(row, cell) for category, cell in row.cells.items()}
        return {category: torch.from_numpy(maps_Lhw) for category, maps_Lhw in maps.items() if maps_Lhw.any()}

    def _maps(self, row: Row, cell: list[str | int]) -> NDArray[np.int32]:
        """One category's maps: int32, shape (L, h, w), or (L, 1, 1) where all are whole-image labels."""
        size = row.map_size if any(isinstance(entry, str) for entry in cell) else (1, 1)
        maps = np.empty((len(cell), *size), np.int32)
        for target, entry in zip(maps, cell, strict=True):
            target[:] = entry if isinstance(entry, int) else self._pixels(row, entry)
        known = self._known.take(maps, mode="clip")
        if not known.all():
            number = maps[~known][0]
            raise InputError(f"{self.root / 'images' / row.image}: labelled with {number}, which label.csv does not list")
        return maps

    def _pixels(self, row: Row, name: str) -> NDArray[np.int32]:
        path = self.root / "images" / name
        labels = read_label_map(path)
        if labels.shape != row.map_size:
            raise InputError(f"{path}: its size is {text(labels.shape)}; index.csv says {text(row.map_size)}")
        return labels


def read_tables(root: Path) -> Tables:
    """Read a directory's CSV files. Nothing is raised: all that is wrong is in `problems`, one line each."""
    problems: list[str] = []
    if not root.is_dir():
        return Tables([], [], [], {}, [f"{root}: no such folder; give one in Broden's format"])
    categories = [row["name"] for row in _read(root / "category.csv", ("name",), problems)]
    labels, listed = _labels(root, problems)
    rows = _rows(root, categories, problems)
    if not problems:
        problems += _conflicts(root, labels, listed, categories, rows)
    return Tables(labels, categories, rows, listed, problems)


def _read(path: Path, columns: Sequence[str], problems: list[str], empty: bool = False) -> list[dict[str, str]]:
    """The rows of a CSV file that must have these columns; none if there is no such file. `empty`: it may have no rows."""
    try:
        fields, *lines = [[cell.strip() for cell in line] for line in read_table(path)] or [[]]
    except FileNotFoundError:
        problems.append(f"{path}: no such file; Broden's format has one")
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.append(f"{path}: cannot be read ({error}); it must be CSV in UTF-8")
        return []
    missing = [column for column in columns if column not in fields]
    if missing:
        problems.append(f"{path}: no column {', '.join(missing)} in its first line; it must have {', '.join(columns)}")
        return []
    rows = [dict(zip(fields, [*line, *[""] * len(fields)], strict=False)) for line in lines]
    if not rows and not empty:
        problems.append(f"{path}: no rows; it must have one or more under its first line")
    return rows


def _labels(root: Path, problems: list[str]) -> tuple[list[Label], dict[int, list[str]]]:
    """The labels, and the categories in which each is used."""
    path = root / "label.csv"
    coverage = {}
    for codes in sorted(root.glob("c_*.csv")):
        # Of a category that no image has.
        for row in _read(codes, ("number", "coverage"), problems, empty=True):
            try:
                coverage[int(row["number"]), codes.stem[2:]] = float(row["coverage"])
            except ValueError:
                problems.append(f"{codes}: number {row['number']!r}, coverage {row['coverage']!r}; both must be numbers")
    labels: dict[int, Label] = {}
    listed: dict[int, list[str]] = {}
    for row in _read(path, ("number", "name", "category"), problems):
        where, number = f"{path}: label {row['number']!r} ({row['name']})", _integer(row["number"])
        found = re.findall(r"([^;()]+)(?:\((\d+)\))?", row["category"])
        counts = {name.strip(): int(count or 0) for name, count in found if name.strip()}
        if number == 0:
            continue  # some sets list "unlabelled" too
        if number is None or number > MOST:
            problems.append(f"{where}: a number must be an integer from 1 to {MOST}")
        elif number in labels:
            problems.append(f"{where}: the number is listed twice; every label must have its own")
        elif not counts:
            problems.append(f"{where}: no category; it must be such as object(12)")
        else:
            covers = {name: coverage.get((number, name), -1.0) for name in counts}
            # If a category's own file does not list the label, counts of images are taken.
            by = counts if min(covers.values()) < 0 else covers
            largest = max(counts, key=by.__getitem__)
            labels[number] = Label(number, row["name"], largest)
            listed[number] = list(counts)
    return [labels[number] for number in sorted(labels)], listed


def _integer(cell: str) -> int | None:
    return int(cell) if re.fullmatch(r"\d{1,9}", cell, re.ASCII) else None


def _rows(root: Path, categories: list[str], problems: list[str]) -> list[Row]:
    path = root / "index.csv"
    rows = []
    for line, row in enumerate(_read(path, (*INDEX_COLUMNS, *categories), problems), 2):
        ih, iw, sh, sw = sizes = [_integer(row[column] or "") or 0 for column in INDEX_COLUMNS[2:]]
        if not row["image"] or not all(sizes):
            problems.append(f"{path}: line {line} needs an image, and ih, iw, sh, sw as integers from 1 up")
            continue
        entries = {name: [entry.strip() for entry in row[name].split(";") if entry.strip()] for name in categories}
        cells: dict[str, list[str | int]] = {
            name: [int(entry) if _integer(entry) is not None else entry for entry in cell]
            for name, cell in entries.items()
            if cell
        }
        if outside := [name for name in (row["image"], *_files(cells)) if _leads_out(name)]:
            problems.append(f"{path}: line {line} names {outside[0]}, which is outside of images/; name a file in it")
            continue
        rows.append(Row(row["image"], row["split"], (ih, iw), (sh, sw), cells))
    return rows


def _files(cells: dict[str, list[str | int]]) -> Iterator[str]:
    return (entry for cell in cells.values() for entry in cell if isinstance(entry, str))


def _leads_out(name: str) -> bool:
    """A table that somebody sent must not say which of the user's own files are read."""
    return PurePath(name).is_absolute() or ".." in PurePath(name).parts


def _conflicts(
    root: Path, labels: list[Label], listed: dict[int, list[str]], categories: list[str], rows: list[Row]
) -> list[str]:
    """What is wrong between files that are right by themselves."""
    problems = []
    unknown = sorted({name for names in listed.values() for name in names} - set(categories))
    if unknown:
        problems.append(f"{root / 'label.csv'}: category {', '.join(unknown)} is not in category.csv; list it there")
    if not labels:
        problems.append(f"{root / 'label.csv'}: no labels; it must list one or more")
    index = root / "index.csv"
    sizes = sorted({row.map_size for row in rows})
    if len(sizes) > 1:
        problems.append(f"{index}: label maps (sh, sw) of {', '.join(map(text, sizes[:4]))}; all must be of one size")
    twice = [name for name, count in Counter(row.image for row in rows).items() if count > 1]
    problems += [f"{index}: image {name} is listed twice; list it once" for name in twice]
    if not any(row.cells for row in rows):
        problems.append(f"{index}: nothing is labelled; a category's column must name label maps or label numbers")
    return problems
