"""A cell of a comparison: one head, for one budget and one seed, on one network; its figures, or why it has none.

A cell is two files: its figures as JSON, and its weights as safetensors beside them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from dynamick.comparison.heads import HEADS
from dynamick.errors import InputError
from dynamick.files import read_json, write_atomically, write_json
from dynamick.nn import DynamicLinear

FIGURES = (
    "top1",
    "loss",
    "ece",
    "nec",
    "max_per_class",
    "routed",
    "units",
    "shared",
    "detectors",
    "iou",
    "n98",
    "deletion",
    "seconds",
    "classes_per_unit",
    "insertion",
)
OLD_NAMES = {"max_per_class": "most"}
"""Old names of figures, in files written earlier."""
RULES = ("at_most", "exactly")
LARGEST = 10**15
"""The largest whole number in a cell. Python reads larger ones than it can compute with."""


@dataclass(frozen=True)
class Cell:
    """A finished one.

    Attributes:
        head: a name of `HEADS`.
        budget: non-zeros a class, or K; 0 for a head without one.
        seed: of the head.
        features: what it was computed from: a checksum of the keys of both caches.
        figures: by the names of `FIGURES`; None if a head has none, and absent where it was not measured.
        about: what else is worth knowing about the fit.
        k, rule: of a head that routes.
        seen: the `cache.probe` of the features; empty in cells that were written before there was one.
    """

    head: str
    budget: int
    seed: int
    features: str
    figures: dict[str, float | None]
    about: dict[str, float] = field(default_factory=dict)
    k: int | None = None
    rule: str | None = None
    seen: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FailedCell:
    """One that could not be computed; `reason` says why in one line. The rest is as in `Cell`."""

    head: str
    budget: int
    seed: int
    features: str
    reason: str


def read(file: Path) -> Cell | FailedCell:
    """What a cell's JSON says.

    Raises:
        InputError: it is damaged, or cannot be read; it names the file.
    """
    try:
        written = read_json(file)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: damaged ({error}); take it away and run again") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); take it away and run again") from None
    if not _is_cell(written):
        raise InputError(f"{file}: damaged (these are no cell's values); take it away and run again")
    named = (written["head"], written["budget"], written["seed"], written["features"])
    if "failed" in written:
        return FailedCell(*named, written["failed"])
    figures = {name: written[name] for name in FIGURES if name in written}
    figures |= {name: written[old] for name, old in OLD_NAMES.items() if old in written and name not in written}
    return Cell(*named, figures, written.get("about", {}), written.get("k"), written.get("rule"), written.get("seen", []))


def write(file: Path, cell: Cell | FailedCell, head: torch.nn.Module | None = None) -> None:
    """Write a cell, and the weights of its head. Makes the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    said: dict[str, Any] = {"head": cell.head, "budget": cell.budget, "seed": cell.seed, "features": cell.features}
    if isinstance(cell, FailedCell):
        write_json(file, {**said, "failed": cell.reason})
        return
    said |= {**cell.figures, "about": cell.about, "seen": cell.seen}
    said |= {} if cell.k is None else {"k": cell.k, "rule": cell.rule}
    if head is not None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
        write_atomically(_weights(file), safetensors.torch.save(tensors))
    # The JSON is written last: if it is there, the cell is finished.
    write_json(file, said)


def is_done(file: Path) -> bool:
    """Whether a cell is finished; one whose weights are missing or truncated is not.

    Raises:
        InputError: as `read`.
    """
    if not file.exists() or isinstance(read(file), FailedCell):
        return False
    try:
        with safetensors.safe_open(_weights(file), "pt"):
            return True
    except (safetensors.SafetensorError, OSError):
        return False


def load_head(file: Path) -> torch.nn.Module:
    """The head that a cell's file stands beside, as in `Fitted`.

    Raises:
        InputError: it is missing or damaged, or the cell failed.
    """
    if not file.exists() or isinstance(cell := read(file), FailedCell):
        raise InputError(f"{file}: no finished cell")
    path = _weights(file)
    try:
        tensors = safetensors.torch.load_file(path)
        head = _empty(cell, tensors)
        head.load_state_dict(tensors)
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: missing or damaged ({why}); take {file.name} away and run again") from None
    return head.requires_grad_(False)


def _empty(cell: Cell, tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    if (make := HEADS[cell.head].empty) is not None:
        return make(tensors, cell.budget)
    classes, units = tensors["weight"].shape
    if cell.k is not None:
        return DynamicLinear(units, classes, cell.k, rule=cell.rule or RULES[0])
    return torch.nn.Linear(units, classes)


def _weights(file: Path) -> Path:
    return file.with_suffix(".safetensors")


def _is_cell(written: Any) -> bool:
    """Whether all values of a cell have the right types."""
    if not isinstance(written, dict) or written.get("head") not in [*HEADS]:
        return False
    counts = [written.get(name) for name in ("budget", "seed")]
    if not all(type(count) is int and 0 <= count <= LARGEST for count in counts) or type(written.get("features")) is not str:
        return False
    if "failed" in written:
        return isinstance(written["failed"], str)
    figures = [written.get(name) for name in (*FIGURES, *OLD_NAMES.values())]
    return written.get("top1") is not None and all(map(_is_figure, figures)) and _is_routed(written) and _is_about(written)


def _is_figure(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) <= LARGEST)


def _is_routed(written: dict[str, Any]) -> bool:
    k, rule = written.get("k"), written.get("rule")
    return (k is None and rule is None) or (type(k) is int and k > 0 and rule in RULES)


def _is_about(written: dict[str, Any]) -> bool:
    about, seen = written.get("about", {}), written.get("seen", [])
    if not isinstance(about, dict) or not isinstance(seen, list):
        return False
    return all(map(_is_number, seen)) and all(map(_is_figure, about.values()))
