"""A cell's files: what is written is read back, and so is what older versions wrote."""

import json
from pathlib import Path

import pytest

from dynamick.comparison import cell
from dynamick.comparison.cell import Cell, FailedCell
from dynamick.errors import InputError

GOOD = {"head": "dense", "budget": 0, "seed": 0, "features": "f", "top1": 90.0}


@pytest.mark.parametrize(
    "given",
    [
        Cell("dense", 0, 0, "f", {"top1": 90.0, "n98": None, "max_per_class": 9}, {"violation": 1e-6}),
        Cell("dynamic-exactly", 5, 2, "f", {"top1": 90.0}, {}, 5, "exactly", [1.0, 0.5]),
        FailedCell("dice", 5, 0, "f", "no luck"),
    ],
)
def test_what_is_written_is_read_back(tmp_path: Path, given: Cell | FailedCell) -> None:
    cell.write(tmp_path / "cells" / "x.json", given)
    assert cell.read(tmp_path / "cells" / "x.json") == given


def test_a_figure_has_its_new_name_whatever_it_was_written_as(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({**GOOD, "most": 7}))
    found = cell.read(tmp_path / "x.json")
    assert isinstance(found, Cell)
    assert found.figures == {"top1": 90.0, "max_per_class": 7}


@pytest.mark.parametrize(
    "change",
    [
        {"k": 0, "rule": "at_most"},
        {"k": 5, "rule": "often"},
        {"k": 5},
        {"about": []},
        {"features": 3},
        {"seen": [None]},
        {"seen": 3},
        {"seed": True},
        {"ece": True},
    ],
)
def test_odd_values_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "x.json").write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(InputError, match=r"x\.json: damaged"):
        cell.read(tmp_path / "x.json")
