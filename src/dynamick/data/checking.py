"""Find everything that is wrong in a data directory, before an hour is spent on it."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from dynamick.data.broden import Broden, Row, Tables, read_tables
from dynamick.data.concepts import ConceptDataset
from dynamick.data.decode import read_image, read_label_map, read_mask, text
from dynamick.data.folder import ConceptFolder, scan
from dynamick.errors import InputError

_Item = TypeVar("_Item")


def open_concepts(root: str | Path) -> ConceptDataset:
    """The data set in a directory: `Broden` if there is an index.csv, `ConceptFolder` if there is masks/.

    Raises:
        InputError: it is neither, or as those two.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> len(dk.data.open_concepts("scenes"))
    20
    """
    form = _form(Path(root))
    if form is None:
        raise InputError(_neither(root))
    return Broden(root) if form == "broden" else ConceptFolder(root)


def check(root: str | Path) -> list[str]:
    """All that is wrong in a directory in Broden's format or with images/ beside masks/: one line each, none when all is well.

    Found are missing and unreadable files, sizes that do not match, labels out of range, and sets without labels. Every
    file is decoded, two at a time.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> dk.data.check("scenes")  # a line for all that is wrong
    []
    """
    root = Path(root)
    form = _form(root)
    if form is None:
        return [_neither(root)]
    return _check_broden(root) if form == "broden" else _check_folder(root)


def _form(root: Path) -> str | None:
    if any((root / name).is_file() for name in ("index.csv", "label.csv", "category.csv")):
        return "broden"
    return "folder" if (root / "masks").is_dir() else None


def _neither(root: str | Path) -> str:
    return f"{root}: no data set; it must hold Broden's index.csv, or images/ beside masks/"


class _Found(NamedTuple):
    """Of one image: what is wrong, and whether anything in it is labelled."""

    problems: list[str]
    labelled: bool


def _check_broden(root: Path) -> list[str]:
    tables = read_tables(root)
    missing = [root / f"c_{category}.csv" for category in tables.categories if not (root / f"c_{category}.csv").is_file()]
    problems = [*tables.problems, *(f"{path}: no such file; Broden's format has one for every category" for path in missing)]
    found = _all(lambda row: _check_row(root, tables, row), tables.rows)
    problems += [problem for each in found for problem in each.problems]
    if found and not any(each.labelled for each in found) and not problems:
        problems.append(f"{root}: nothing is labelled: every label map is 0 everywhere; some pixels must have a label's number")
    return problems


def _all(function: Callable[[_Item], _Found], items: Iterable[_Item]) -> list[_Found]:
    # Pillow decodes without holding the interpreter's lock.
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, items))


def _check_row(root: Path, tables: Tables, row: Row) -> _Found:
    """Check one image and its label maps."""
    problems = []
    labelled = False
    try:
        path = root / "images" / row.image
        size = read_image(path).shape[:2]
        if size != row.image_size:
            problems.append(f"{path}: its size is {text(size)}; index.csv says {text(row.image_size)}")
    except InputError as error:
        problems.append(str(error))
    for category, cell in row.cells.items():
        for entry in cell:
            try:
                numbers = [entry] if isinstance(entry, int) else _numbers(root / "images" / entry, row)
                where = root / "images" / row.image if isinstance(entry, int) else root / "images" / entry
                problems += _unlisted(where, numbers, category, tables)
                labelled = labelled or any(numbers)
            except InputError as error:
                problems.append(str(error))
    return _Found(problems, labelled)


def _numbers(path: Path, row: Row) -> list[int]:
    """The label numbers in a map."""
    labels = read_label_map(path)
    if labels.shape != row.map_size:
        raise InputError(f"{path}: its size is {text(labels.shape)}; index.csv says {text(row.map_size)}")
    return np.flatnonzero(np.bincount(labels.ravel())).tolist()


def _unlisted(where: Path, numbers: list[int], category: str, tables: Tables) -> Iterator[str]:
    """Label numbers that label.csv does not have, or not in this category."""
    if not tables.listed:
        return  # said once already
    unknown = [number for number in numbers if number and number not in tables.listed]
    if unknown:
        listed = f"it has numbers from {min(tables.listed)} to {max(tables.listed)}"
        yield f"{where}: {category} label {', '.join(map(str, unknown[:5]))} is not in label.csv; {listed}"
    for number in numbers:
        if number in tables.listed and category not in tables.listed[number]:
            names = ", ".join(tables.listed[number])
            yield f"{where}: {category} label {number} is of category {names}; label.csv must list {category} for it too"


def _check_folder(root: Path) -> list[str]:
    names, _, masks, problems = scan(root)
    found = _all(lambda name: _check_image(root, name, [path for _, path in masks.get(name, [])]), names)
    problems += [problem for each in found for problem in each.problems]
    if not problems and not any(each.labelled for each in found):
        problems.append(f"{root / 'masks'}: no labels: every mask is black; a mask must not be black where its concept is")
    return problems


def _check_image(root: Path, name: str, masks: list[Path]) -> _Found:
    """Check one image and its masks."""
    problems = []
    size, labelled = None, False
    try:
        size = read_image(root / "images" / name).shape[:2]
    except InputError as error:
        problems.append(str(error))
    for path in masks:
        try:
            mask = read_mask(path)
        except InputError as error:
            problems.append(str(error))
            continue
        labelled = labelled or bool(mask.any())
        if size is not None and mask.shape != size:
            problems.append(f"{path}: its size is {text(mask.shape)}; its image's is {text(size)}, and both must be the same")
    return _Found(problems, labelled)
