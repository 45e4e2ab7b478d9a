"""What a dissection found: thresholds, IoU of units with concepts, the label of each unit; tally.csv and JSON."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dynamick.data.concepts import Label
from dynamick.dissection.rows import NOTHING, Match, Row, row_of_cells, rows_of_values
from dynamick.errors import InputError
from dynamick.files import read_table, write_atomically
from dynamick.tables import frame

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

DETECTOR = 0.04
"""A unit whose score is at least this detects its concept."""
COLUMNS = ("unit", "concept", "category", "score", "detector")
"""Of a dissection as a table."""
_FIRST = ["unit", "category", "label", "score"]
_COLUMNS = ("label", "truth", "activation", "intersect", "iou")


class Summary(NamedTuple):
    """The four figures by which dissections are compared. The mean is over all units."""

    units: int
    mean_score: float
    detectors: int
    distinct_labels: int


@dataclass
class Dissection:
    """A dissected layer of U units over L concepts in C categories.

    rows: one a unit, in the units' order.
    columns: names of the categories, in the order of tally.csv's columns.
    layer, rule, quantile: how it was made; empty and NaN where read from a tally.
    concepts: the L concepts in the order of their numbers.
    thresholds: float32, shape (U,).
    intersections, areas, sizes: int64 pixel counts, shapes (U, L), (U, C), (L,), see `Counts`.
    top_images, top_values: shape (U, N): the images of highest activation, the highest first, and that activation.
    nan_counts: int64, shape (U,): how many activations were NaN; they rank below all others.
    measured: what the run cost: seconds, bytes, images; empty if not measured.

    If the dissection was read from a tally, which does not hold the arrays, they have a dimension of zero.

    >>> dk.data.ComposedScenes("val", 20, image_size=32).write_broden("scenes")
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> found = dk.dissect(model, "layer3", dk.data.Broden("scenes"), progress=False)
    >>> found.write_tally("tally.csv")
    >>> dk.Dissection.read_tally("tally.csv").labels == found.labels
    True
    >>> list(found.to_pandas().columns)
    ['unit', 'concept', 'category', 'score', 'detector']
    """

    rows: list[Row]
    columns: list[str]
    layer: str = ""
    rule: str = ""
    quantile: float = float("nan")
    concepts: list[Label] = field(default_factory=list)
    thresholds: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    intersections: Integers = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    areas: Integers = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    sizes: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    top_images: Integers = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    top_values: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    nan_counts: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """Each unit's label: the concept of highest IoU (the lowest number among equals)."""
        return [row.label for row in self.rows]

    @property
    def categories(self) -> list[str]:
        """The category of each unit's label."""
        return [row.category for row in self.rows]

    @property
    def scores(self) -> Floats:
        """Each unit's IoU with its label, shape (U,)."""
        return np.array([row.score for row in self.rows])

    @property
    def detectors(self) -> npt.NDArray[np.bool_]:
        """Which units detect their label: a score of 0.04 or more, shape (U,)."""
        return self.scores >= DETECTOR

    @property
    def iou(self) -> Floats:
        """IoU of every unit with every concept, shape (U, L)."""
        return iou(self.intersections, self.areas, self.sizes, _places(self.concepts, self.columns))

    def summary(self) -> Summary:
        """How many units, their mean score, how many detect a concept, and how many distinct ones."""
        labels = {label for label, found in zip(self.labels, self.detectors, strict=True) if found}
        return Summary(len(self.rows), float(self.scores.mean()), int(self.detectors.sum()), len(labels))

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row for each unit, by number: its concept, the category, the IoU, whether that counts.

        Raises:
            InputError: pandas is not installed.
        """
        found = zip(self.rows, self.scores.tolist(), self.detectors.tolist(), strict=True)
        rows = [(row.unit, row.label, row.category, score, detector) for row, score, detector in found]
        return frame(rows, COLUMNS)

    def write_tally(self, path: str | Path) -> None:
        """Write tally.csv (docs/definitions.md, "Network Dissection"), best units first."""
        header = [*_FIRST, *(f"{category}-{column}" for category in self.columns for column in _COLUMNS)]
        lines = [header]
        for row in sorted(self.rows, key=lambda row: -row.score):
            cells = [cell for match in row.matches for cell in match]
            lines.append([str(cell) for cell in (*row[:4], *cells)])
        text = _Lines()
        csv.writer(text).writerows(lines)
        write_atomically(Path(path), "".join(text).encode())

    @classmethod
    def read_tally(cls, path: str | Path) -> "Dissection":
        """Read a tally.csv.

        Raises:
            InputError: it cannot be read, or is not a tally.
        """
        path = Path(path)
        try:
            first, *lines = read_table(path) or [[]]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: cannot be read as a tally ({error}); give a tally.csv") from error
        header = [name.strip() for name in first]
        categories = [name.removesuffix("-label") for name in header[4::5]]
        expected = [*_FIRST, *(f"{category}-{column}" for category in categories for column in _COLUMNS)]
        if header != expected:
            raise InputError(f"{path}: its first line is no tally's; it must be {','.join(_FIRST)} and five columns a category")
        rows = []
        for number, line in enumerate(lines, 2):
            try:
                rows.append(row_of_cells(line, len(header)))
            except ValueError as error:
                raise InputError(f"{path}: line {number}: {error}") from error
        if not rows:
            raise InputError(f"{path}: no units; it must have one or more under its first line")
        if sorted(row.unit for row in rows) != list(range(1, len(rows) + 1)):
            raise InputError(f"{path}: units must be 1 to {len(rows)}, each once")
        return cls(sorted(rows), categories)

    def to_json(self) -> str:
        """Everything as JSON; intersections are listed where they are above 0: [place of the concept, pixels]."""
        sparse = [[[int(l), int(row[l])] for l in row.nonzero()[0]] for row in self.intersections]
        plain = {name: getattr(self, name) for name in ("layer", "rule", "quantile", "columns", "concepts", "measured")}
        # JSON has no NaN and no infinity.
        plain["quantile"] = None if np.isnan(self.quantile) else self.quantile
        arrays = {name: getattr(self, name).tolist() for name in ("areas", "sizes", "top_images", "nan_counts")}
        arrays |= {name: getattr(self, name).astype(str).tolist() for name in ("thresholds", "top_values")}
        summary = self.summary()._asdict()
        return json.dumps({"summary": summary, **plain, "rows": self.rows, **arrays, "intersections": sparse}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Dissection":
        """The inverse of `to_json`.

        Raises:
            InputError: the text is not one that `to_json` wrote.
        """
        try:
            return cls._of_values(json.loads(text, parse_constant=_no_number))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"JSON of a dissection: {error!r}; give what Dissection.to_json wrote") from error

    @classmethod
    def _of_values(cls, read: dict[str, Any]) -> "Dissection":
        columns, concepts = list(read["columns"]), [Label(*each) for each in read["concepts"]]
        rows = rows_of_values(read["rows"], len(columns))
        intersections = np.zeros((len(read["intersections"]), len(concepts)), np.int64)
        for u, pairs in enumerate(read["intersections"]):
            for l, pixels in pairs:
                intersections[u, range(len(concepts))[l]] = pixels
        integers: dict[str, Any] = {name: _integers(read[name]) for name in ("areas", "sizes", "top_images", "nan_counts")}
        # Strings, as JSON has neither NaN nor infinity.
        with np.errstate(all="ignore"):
            floats: dict[str, Any] = {name: np.array(read[name]).astype(np.float32) for name in ("thresholds", "top_values")}
        for name in ("areas", "top_images"):
            integers[name] = integers[name].reshape(len(integers[name]), -1 if len(integers[name]) else 0)
        plain: dict[str, Any] = {name: read[name] for name in ("layer", "rule", "measured")}
        quantile = float("nan") if read["quantile"] is None else read["quantile"]
        made = cls(
            rows, columns, concepts=concepts, intersections=intersections, quantile=quantile, **plain, **integers, **floats
        )
        made._check()
        return made

    def _check(self) -> None:
        """Raise ValueError if what a file held does not fit together."""
        U, C, L = len(self.rows), len(self.columns), len(self.concepts)
        N = self.top_images.shape[1]
        texts = (self.layer, self.rule, *self.columns, *(each.name for each in self.concepts))
        if not all(isinstance(each, str) for each in texts) or not isinstance(self.measured, dict) or not U:
            raise ValueError("a name is no text, or there are no units")
        if not all(type(each.number) is int and each.category in self.columns for each in self.concepts):
            raise ValueError("a concept has no number, or is of none of the categories")
        if not isinstance(self.quantile, float) or self.quantile <= 0 or self.quantile >= 1:
            raise ValueError(f"a quantile of {self.quantile!r} must be between 0 and 1")
        shapes = {"areas": (U, C), "sizes": (L,), "intersections": (U, L), "nan_counts": (U,), "thresholds": (U,)}
        shapes |= {"top_images": (U, N), "top_values": (U, N)}
        # Of a tally, which holds none, all are empty.
        of_tally = not self.concepts and not any(getattr(self, name).size for name in shapes)
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape and not of_tally:
                raise ValueError(f"{name} of shape {array.shape}; it must be {shape}")
            if array.dtype == np.int64 and array.size and array.min() < 0:
                raise ValueError(f"{name}: {array.min()} must be 0 or more")


class _Lines(list[str]):
    """A list that csv can write to."""

    write = list.append


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _integers(values: Any) -> Integers:
    """Whole numbers as an array; ValueError if they are anything else."""
    array = np.array(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{array.dtype} where whole numbers must be")
    return array.astype(np.int64)


def _places(concepts: Sequence[Label], categories: Sequence[str]) -> Integers:
    return np.array([categories.index(label.category) for label in concepts], np.int64)


def iou(intersections: Integers, areas: Integers, sizes: Integers, category_L: Integers) -> Floats:
    """|mask & concept| / (|mask| over the concept's category + |concept| - |mask & concept|), shape (U, L); 0 for 0 / 0."""
    union = areas[:, category_L] + sizes - intersections
    return np.divide(intersections, union, out=np.zeros(union.shape), where=union > 0)


def rank(
    concepts: Sequence[Label], categories: Sequence[str], intersections: Integers, areas: Integers, sizes: Integers
) -> list[Row]:
    """The best concept of every unit, overall and in each category; of equals the lowest label.

    Args:
        concepts: L labels in the order of their numbers.
        intersections, areas, sizes: shapes (U, L), (U, C), (L,).
    """
    category_L = _places(concepts, categories)
    iou_UL = iou(intersections, areas, sizes, category_L)
    own = [np.flatnonzero(category_L == c) for c in range(len(categories))]
    rows = []
    for u, scores in enumerate(iou_UL):
        matches = []
        for c, members in enumerate(own):
            if not len(members):
                matches.append(NOTHING)
                continue
            l = members[scores[members].argmax()]
            pixels = (float(sizes[l]), float(areas[u, c]), float(intersections[u, l]))
            matches.append(Match(concepts[l].name, *pixels, float(scores[l])))
        best = concepts[scores.argmax()]
        rows.append(Row(u + 1, best.category, best.name, float(scores.max()), tuple(matches)))
    return rows


def read_tally(path: str | Path) -> Dissection:
    """Read a tally.csv, see `Dissection.read_tally`.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> dk.dissect(model, "layer3", dk.data.Broden("scenes"), progress=False).write_tally("tally.csv")
    >>> len(dk.dissection.read_tally("tally.csv").labels)
    32
    """
    return Dissection.read_tally(path)
