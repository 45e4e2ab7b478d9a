"""The training comparison: plain figures of several trained heads in, one self-contained HTML page and one text table out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from dynamick import report
from dynamick.errors import InputError

if TYPE_CHECKING:
    from dynamick.report.figures import Axis


@dataclass(frozen=True)
class Run:
    """One trained head and what was measured of it."""

    name: str  # "res8-d5a"
    title: str  # "Dynamic-5"
    accuracy: float  # top-1 in percent on validation images
    weights_per_class: float  # static weights |w| >= 1e-3 per class, mean
    weights_per_class_max: int
    routed: float  # units routed per input and class, mean
    seconds: float
    history: Mapping[str, Sequence[float]]  # per epoch: epoch, top1, train_loss, val_loss, sparse_share, weights_per_class, ...
    head_weight: NDArray[np.floating]  # (O, M)
    extra: Mapping[str, float | str] = field(default_factory=dict)  # further columns of the table, "mean IoU" -> 41.2


@dataclass(frozen=True)
class Section:
    """A further section of the page. `html_safe` is markup that this package made and escaped itself."""

    title: str
    html_safe: str
    description: str = ""


@dataclass(frozen=True)
class Decision:
    """One decision that the report shows, and the way to the page of all of them.

    Attributes:
        sentence: the decision in words.
        image, heat: uint8 (H, W, 3), the image and where the evidence is; heat may be None.
        concepts: what it adds up to, as its sentence says it: a name, its share in words, and the share itself; 1 is all.
        link: to this decision on the page of explanations.
        page: that page's file, beside the report.
        count: how many decisions it shows.
        preview: some of its images, uint8 (H, W, 3).
    """

    sentence: str
    image: NDArray[np.uint8]
    heat: NDArray[np.uint8] | None
    concepts: Sequence[tuple[str, str, float]]
    link: str
    page: str
    count: int
    preview: Sequence[NDArray[np.uint8]] = ()


@dataclass(frozen=True)
class Comparison:
    """Everything the page shows."""

    title: str
    dataset: str
    classes: Sequence[str]
    runs: Sequence[Run]
    parts: Sequence[str] | None = None
    part_table: NDArray[np.bool_] | None = None  # (O, P): the true class-by-part table
    unit_names: Mapping[str, Sequence[str]] | None = None  # run name -> the name of each of its M units
    sections: Sequence[Section] = ()
    decision: Decision | None = None
    meanings: Mapping[str, str] = field(default_factory=dict)  # what a further column says
    remarks: Sequence[str] = ()  # below the table: why cells are empty, where another head is better
    command: str = ""
    machine: str = ""


NOTHING = "–"


@dataclass(frozen=True)
class _Column:
    title: str
    hint: str
    values: list[str]


@dataclass(frozen=True)
class _Unit:
    name: str
    weight: float
    match: bool


WIDEST = 100
"""How many columns of a terminal the text table takes at most; what does not fit follows below."""


def table(comparison: Comparison) -> str:
    """The plain-text table: accuracy, static weights per class, routed units per input, seconds, then the extra columns."""
    heads = ["head", *(run.title for run in comparison.runs)]
    begun = [f"{head:<{max(map(len, heads))}}" for head in heads]
    blocks = [begun]
    for column in _columns(comparison):
        cells = [column.title, *column.values]
        width = max(map(len, cells))
        if blocks[-1] is not begun and len(blocks[-1][0]) + 2 + width > WIDEST:
            blocks.append(begun)
        blocks[-1] = [f"{line}  {cell:>{width}}" for line, cell in zip(blocks[-1], cells, strict=True)]
    return "\n".join("\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n" for lines in blocks)


def finding(comparison: Comparison) -> str:
    """What the figures say, in words: the sparsest head that keeps the densest one's accuracy, then the others."""
    dense, focus = _densest(comparison.runs), focus_run(comparison.runs)
    if dense is focus:
        return f"{dense.title} reaches {_percent(dense.accuracy)} with {_of(dense)} weights per class."
    gap = focus.accuracy - dense.accuracy
    if abs(gap) <= 1:
        verdict = f"keeps the accuracy of {dense.title}"
    elif gap > 1:
        verdict = f"is {gap:.1f} points more accurate than {dense.title}"
    elif gap < -1:
        verdict = f"falls {-gap:.1f} points behind {dense.title}"
    else:
        verdict = f"cannot be compared with {dense.title}"
    first = (
        f"{focus.title} {verdict} ({_percent(focus.accuracy)} against {_percent(dense.accuracy)}) "
        f"with {_of(focus)} weights per class instead of {_number(dense.weights_per_class, 1)}."
    )
    others = [run for run in comparison.runs if run is not dense and run is not focus]
    rest = [
        f"{run.title} reaches {_percent(run.accuracy)} with {_number(run.weights_per_class, 1)} weights per class"
        for run in others
    ]
    return " ".join([first, *([f"{'; '.join(rest)}."] if rest else [])])


def focus_run(runs: Sequence[Run]) -> Run:
    """The run to look at: fewest weights per class within one point of the densest head, else the most accurate other one."""
    dense = _densest(runs)
    others = [run for run in runs if run is not dense]
    near = [run for run in others if run.accuracy >= dense.accuracy - 1]
    if near:
        return min(near, key=lambda run: _sortable(run.weights_per_class, math.inf))
    return max(others, key=lambda run: _sortable(run.accuracy, -math.inf), default=dense)


def page(comparison: Comparison) -> str:
    """The whole page as text.

    Raises:
        InputError: there is no run, or a head's or the part table's shape does not fit the classes.
    """
    _check(comparison)
    focus = focus_run(comparison.runs)
    scale = report.figures.weight_scale([run.head_weight for run in comparison.runs])
    return report.render(
        "training.html.j2",
        comparison=comparison,
        finding=finding(comparison),
        focus=focus,
        columns=_columns(comparison),
        first=_first(comparison, focus),
        decision=_shown(comparison.decision),
        meanings=[*MEANINGS.items(), *comparison.meanings.items()],
        training=_charts(
            comparison.runs,
            ("top1", "Top-1 accuracy in percent", "linear"),
            ("val_loss", "Validation loss in nats an image", "linear"),
        ),
        sparsity=_charts(
            comparison.runs,
            ("sparse_share", "Head weights with |w| < 0.001 in percent", "from zero"),
            ("weights_per_class", "Weights per class with |w| ≥ 0.001, logarithmic scale", "log"),
            ("routed_units", "Units routed per input and class", "from zero"),
            ("dead_units", "Units routed for no validation image", "from zero"),
        ),
        heads=[
            (
                run.title,
                f"{_of(run)} weights per class",
                Markup(report.figures.head(run.head_weight, comparison.classes, scale, run.title)),
            )
            for run in comparison.runs
        ],
        scale=_number(scale, 2),
        colours=(report.figures.NEGATIVE, report.figures.POSITIVE),
        tables=_tables(comparison, focus, scale),
        learnt=[(run, _learnt(comparison, run)) for run in [focus, *(run for run in comparison.runs if run is not focus)]],
        sections=[(section.title, section.description, Markup(section.html_safe)) for section in comparison.sections],
    )


def write(comparison: Comparison, path: str | Path) -> None:
    """Write the page; a page that was there before survives a failure.

    Raises:
        InputError: as `page`.
        OSError: the file cannot be written.
    """
    report.save(path, page(comparison))


def _check(comparison: Comparison) -> None:
    classes, parts, truth = len(comparison.classes), comparison.parts, comparison.part_table
    if not comparison.runs:
        raise InputError("comparison: it has no run; give one or more trained heads")
    for run in comparison.runs:
        if run.head_weight.ndim != 2 or len(run.head_weight) != classes:
            raise InputError(
                f"run {run.name}: head_weight has shape {run.head_weight.shape}; it needs one row for each of {classes} classes"
            )
        names = (comparison.unit_names or {}).get(run.name)
        if names is not None and len(names) != run.head_weight.shape[1]:
            raise InputError(f"run {run.name}: {len(names)} unit names; its head has {run.head_weight.shape[1]} units")
    if (parts is None) != (truth is None):
        raise InputError("comparison: parts and part_table belong together; give both or neither")
    if parts is not None and truth is not None and truth.shape != (classes, len(parts)):
        raise InputError(f"part_table: shape {truth.shape}; it needs {classes} classes by {len(parts)} parts")


def _columns(comparison: Comparison) -> list[_Column]:
    runs = comparison.runs
    columns = [
        _Column("accuracy", "top-1, %", [_number(run.accuracy, 2) for run in runs]),
        _Column("weights/class", "mean", [_number(run.weights_per_class, 1) for run in runs]),
        _Column("most", "in a class", [_number(run.weights_per_class_max, 0) for run in runs]),
        _Column("routed/input", "units per class", [_number(run.routed, 1) for run in runs]),
        _Column("seconds", "of training", [_number(run.seconds, 0 if run.seconds >= 10 else 1) for run in runs]),
    ]
    for title in dict.fromkeys(key for run in runs for key in run.extra):
        values = [run.extra.get(title, math.nan) for run in runs]
        columns.append(_Column(title, "", [_cell(value) for value in values]))
    return columns


MEANINGS = {
    "accuracy": "how many validation images are answered correctly",
    "weights/class": "weights of 0.001 and more, of either sign, per class: what a person would have to read",
    "most": "the same for the class that has most",
    "routed/input": "units whose products enter a class's score for one image, on average",
    "seconds": "that the training took",
}


def _first(comparison: Comparison, focus: Run) -> list[tuple[str, str, str]]:
    """The four figures of the first screen: what, how much, and beside it the densest head's."""
    dense = _densest(comparison.runs)

    def beside(value: str) -> str:
        return "" if dense is focus else f"{dense.title}: {value}"

    figures = [
        ("right answers", _percent(focus.accuracy), beside(_percent(dense.accuracy))),
        ("weights a class", _of(focus), beside(_number(dense.weights_per_class, 1))),
        ("units that decide for a class, per image", _number(focus.routed, 1), beside(_number(dense.routed, 1))),
    ]
    shared = next((key for key in focus.extra if key in dense.extra and key != "mean IoU"), None)
    found = "parts found" if "parts found" in focus.extra else shared
    if found is None:
        return [*figures, ("seconds of training", _number(focus.seconds, 0), beside(_number(dense.seconds, 0)))]
    return [*figures, (found, _cell(focus.extra[found]), beside(_cell(dense.extra.get(found, math.nan))))]


def _shown(decision: Decision | None) -> dict[str, Any] | None:
    """A decision with its pictures as addresses."""
    if decision is None:
        return None
    uri = report.thumbnails.uri
    pictures = [decision.image, *([] if decision.heat is None else [decision.heat])]
    return {
        **{name: getattr(decision, name) for name in ("sentence", "concepts", "link", "page", "count")},
        "pictures": [uri(_enlarged(each), 90) for each in pictures],
        "preview": [uri(each, 80) for each in decision.preview],
    }


def _enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small image enlarged smoothly to about 256 pixels, as a screen would do less well."""
    times = max(1, 256 // max(image.shape[:2]))
    size = (image.shape[1] * times, image.shape[0] * times)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _charts(runs: Sequence[Run], *wanted: tuple[str, str, Axis]) -> list[str]:
    charts: list[str] = []
    for key, label, axis in wanted:
        percent = 100.0 if key == "sparse_share" else 1.0
        lines = []
        for run in runs:
            values = [percent * value for value in run.history.get(key, ())]
            lines.append((run.title, list(run.history.get("epoch", range(1, len(values) + 1))), values))
        if chart := report.figures.curves(lines, label, axis):
            charts.append(Markup(chart))
    return charts


def _learnt(comparison: Comparison, run: Run, most: int = 5) -> list[tuple[str, list[_Unit], int, list[str]]]:
    """For each class: its name, its heaviest units, how many more it uses, and its true parts."""
    rows = []
    for o, name in enumerate(comparison.classes):
        parts = _parts(comparison, o)
        known = {part.casefold() for part in parts}
        weights = np.nan_to_num(run.head_weight[o])
        used = [int(m) for m in np.argsort(-np.abs(weights), kind="stable") if abs(weights[m]) >= 1e-3]
        units = [
            _Unit(label := _unit_name(comparison, run, m), float(weights[m]), weights[m] > 0 and label.casefold() in known)
            for m in used[:most]
        ]
        rows.append((name, units, len(used) - len(units), parts))
    return rows


def _tables(comparison: Comparison, run: Run, scale: float, most: int = 3) -> str | None:
    """The figure of both tables: each class's heaviest units, if there are not too many classes."""
    if comparison.parts is None or comparison.part_table is None or len(comparison.classes) > 24:
        return None
    size = np.abs(np.nan_to_num(run.head_weight))
    chosen = {int(m) for row in size for m in np.argsort(-row, kind="stable")[:most] if row[m] >= 1e-3}
    order = [int(m) for m in report.figures.unit_order(run.head_weight) if int(m) in chosen]
    if not order:
        return None
    names = [_unit_name(comparison, run, m) for m in order]
    truth = np.asarray(comparison.part_table, dtype=bool)
    return Markup(
        report.figures.class_tables(run.head_weight[:, order], names, comparison.classes, scale, comparison.parts, truth)
    )


def _parts(comparison: Comparison, o: int) -> list[str]:
    if comparison.parts is None or comparison.part_table is None:
        return []
    return [part for part, there in zip(comparison.parts, comparison.part_table[o], strict=True) if there]


def _unit_name(comparison: Comparison, run: Run, m: int) -> str:
    names = (comparison.unit_names or {}).get(run.name)
    return (names[m] if names else "") or f"unit {m + 1}"


def _densest(runs: Sequence[Run]) -> Run:
    return max(runs, key=lambda run: _sortable(run.weights_per_class, -math.inf))


def _sortable(value: float, unknown: float) -> float:
    return value if math.isfinite(value) else unknown


def _of(run: Run) -> str:
    return f"{_number(run.weights_per_class, 1)} of {run.head_weight.shape[1]}"


def _percent(value: float) -> str:
    return f"{_number(value, 1)} %" if math.isfinite(value) else NOTHING


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else NOTHING


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return value or NOTHING
    digits = 0 if float(value).is_integer() or abs(value) >= 100 else 1 if abs(value) >= 10 else 3
    return _number(value, digits)
