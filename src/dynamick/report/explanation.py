"""The explanation page: one HTML file that holds the head's exact arithmetic, so that a reader can switch units off."""

import json
import math
import os
from pathlib import Path
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from dynamick import report
from dynamick.errors import InputError
from dynamick.files import read_text, write_atomically
from dynamick.report.explanation_data import kept_classes, page_data, page_scale
from dynamick.report.explanation_parts import (
    Beside,
    ClassComposition,
    ConceptShare,
    HeadNumbers,
    Instance,
    ModelSummary,
    OtherConcept,
    OtherDecision,
    Page,
    TopImage,
    Unit,
)
from dynamick.report.page_pictures import Pictures, as_json, pictures_beside, pictures_inside

__all__ = [
    "Beside",
    "ClassComposition",
    "ConceptShare",
    "HeadNumbers",
    "Instance",
    "ModelSummary",
    "OtherConcept",
    "OtherDecision",
    "Page",
    "TopImage",
    "Unit",
    "render",
    "write_page",
]

MAX_BYTES = 8_000_000
"""How many bytes a page of 50 images may have."""

_HERE = Path(__file__).parent
_SCRIPTS = (  # one after the other
    *("arithmetic.js", "elements.js", "words.js", "heat.js", "pictures.js", "gallery.js", "decision.js", "compared.js"),
    *("answers.js", "classes.js", "units.js", "address.js", "dialogs.js", "printing.js", "explanation.js"),
)
_STYLES = ("explanation.css", "decision.css", "print.css")
_FRAME_BYTES = 150_000  # template, style and script, with room to grow


def write_page(page: Page, path: str | Path, assets: str | Path | None = None) -> Path:
    """Write the page, one HTML file that needs nothing else, whole or not at all; returns its path.

    Args:
        page: what it shows.
        path: the file.
        assets: a folder for the pictures, which the page then asks for; a page of hundreds of images stays small. None puts
            them into the page.

    Raises:
        InputError: the parts do not fit each other (see `render`).
        OSError: the file cannot be written.
    """
    if assets is None:
        report.save(path, render(page))
        return Path(path)
    # The address goes through folders, so that both can be moved together.
    folder = quote(Path(os.path.relpath(Path(assets).resolve(), Path(path).resolve().parent)).as_posix())
    pictures = pictures_beside(page, folder)
    text = _rendered(page, pictures)
    Path(assets).mkdir(parents=True, exist_ok=True)
    for name, data in pictures.files.items():
        write_atomically(Path(assets) / name, data)
    report.save(path, text)
    return Path(path)


def render(page: Page) -> str:
    """The page as HTML text, with its pictures inside.

    It holds all that the arithmetic needs, and of the rest a part: the maps of the units that matter most, and as many top
    images as fit. If the head is too large for one page, it holds the classes that come closest in these images.

    Raises:
        InputError: no image, or an array whose shape does not fit the others.
    """
    return _rendered(page, None)


def _rendered(page: Page, pictures: Pictures | None) -> str:
    """The page as text; None puts the pictures inside, as good as the room that is left allows."""
    _check(page)
    kept = kept_classes(page)
    notes = list(page.notes)
    if len(kept) < len(page.classes):
        notes.append(
            f"The head has {len(page.classes)} classes. This page computes with the {len(kept)} that come closest in these "
            "images; ranking and probabilities are among them."
        )
    data = page_data(page, kept)
    if pictures is None:
        scale = page_scale(page)
        weights_M = np.abs(np.nan_to_num(page.head.weight)).sum(axis=0)
        room = MAX_BYTES * scale - len(json.dumps(data)) - _FRAME_BYTES
        pictures = pictures_inside(page, room, scale, np.argsort(-weights_M, kind="stable").tolist())
    data |= as_json(pictures)
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    # JSON inside HTML: no character that could end the script element or begin a comment.
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return report.render(
        "explanation.html.j2",
        title=page.title,
        notes=notes,
        columns=page.columns,
        figures=_figures(page),
        images=len(page.instances),
        has_units=any(unit.label for unit in page.units),
        known=any(each.true_class is not None for each in page.instances),
        beside=page.beside,
        pictures_from="data: file: 'self'" if pictures.files else "data:",
        rule=page.head.rule,
        k=page.head.k,
        unit_count=page.head.weight.shape[1],
        data=Markup(text),
        page_style=Markup("\n".join(map(_asset, _STYLES))),
        script=Markup("\n".join(map(_asset, _SCRIPTS))),
    )


def _asset(name: str) -> str:
    return read_text(_HERE / "assets" / name)


def _check(page: Page) -> None:
    O, M = len(page.classes), page.head.weight.shape[-1]
    expected = {"weight": (page.head.weight, (O, M)), "bias": (page.head.bias, (O,))}
    if page.head.mask is not None:
        expected["mask"] = (page.head.mask, (O, M))
    for instance in page.instances:
        expected |= {f"x of {instance.name}": (instance.x, (M,)), f"logits of {instance.name}": (instance.logits, (O,))}
        if instance.maps is not None:
            expected[f"maps of {instance.name}"] = (instance.maps, (M, *instance.maps.shape[-2:]))
        expected[f"image of {instance.name}"] = (instance.image, (*instance.image.shape[:2], 3))
    if page.beside is not None and len(page.beside.decisions) != len(page.instances):
        raise InputError(f"beside: {len(page.beside.decisions)} decisions; give one for each of {len(page.instances)} images")
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise InputError(f"{name}: shape {array.shape}; give {shape}, for {O} classes and {M} units")
    if not page.instances or not O:
        raise InputError(f"instances: {len(page.instances)} of {O} classes; a page needs at least one of each")
    if page.units and [unit.index for unit in page.units] != list(range(M)):
        raise InputError(f"units: {len(page.units)} given; give all {M} by index, or none")
    if page.compositions and len(page.compositions) != O:
        raise InputError(f"compositions: {len(page.compositions)} given; give {O}, one for each class, or none")
    if (page.head.rule == "dense") != (page.head.k is None) or page.head.rule not in ("dense", "at_most", "exactly"):
        raise InputError(f"head: rule {page.head.rule!r} with k={page.head.k}; give dense without k, at_most or exactly with k")


def _figures(page: Page) -> list[tuple[str, str, list[str]]]:
    """The overview's rows: a figure's name, what it means, its value for each model. Rows without any value are left out."""
    models = page.columns
    rows = [
        ("Accuracy", "top-1, held-out images", [_percent(each.accuracy) for each in models]),
        ("Weights per class", "weights with |w| ≥ 0.001 / classes", [_number(each.weights_per_class) for each in models]),
        ("Most weights of a class", "the largest class", [_number(each.most_weights) for each in models]),
        ("Units in use", "units of which any class has such a weight", [_of(each.routed_units, each.units) for each in models]),
        ("Detectors", "units whose concept counts, IoU of 0.04 and more", [_of(each.detectors, each.units) for each in models]),
        ("Mean IoU", "over all units", [_iou(each.mean_iou) for each in models]),
        ("Classes of few concepts", "5 at most hold 95 % of the positive weight", [_percent(each.covered) for each in models]),
    ]
    return [row for row in rows if any(value != _NONE for value in row[2])]


_NONE = "\N{EN DASH}"


def _percent(value: float | None) -> str:
    return _NONE if value is None or not math.isfinite(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _iou(value: float | None) -> str:
    return _NONE if value is None or not math.isfinite(value) else f"{value:.3f}"


def _number(value: float | None) -> str:
    return _NONE if value is None or not math.isfinite(value) else f"{value:.1f}".removesuffix(".0")


def _of(value: int | None, total: int | None) -> str:
    return _NONE if value is None else f"{value}" if total is None else f"{value} of {total}"
