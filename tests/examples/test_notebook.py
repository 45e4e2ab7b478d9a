"""The notebook runs from its first cell to its last, shrunk, and its page holds the network's own numbers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "convert_to_page.ipynb"
SHRUNK = 'SCENES, HELD_OUT, EPOCHS, FINE_TUNE, DISSECTED, EXPLAINED, PAGE = 320, 64, 1, 1, 48, 6, "page.html"'


def cells() -> list[dict[str, Any]]:
    book: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def test_it_is_kept_with_its_outputs() -> None:
    """People read it where nothing runs. After a change: `jupyter execute --inplace examples/convert_to_page.ipynb`."""
    assert [cell["execution_count"] for cell in cells()] == list(range(1, len(cells()) + 1))
    shown = json.dumps([cell["outputs"] for cell in cells()])
    assert "largest difference between a logit and its explanation" in shown
    assert "image/png" in shown
    assert '"error"' not in shown
    assert not re.search(r"/(home|root|tmp|work)/", shown)
    assert NOTEBOOK.stat().st_size < 1_500_000


def test_it_runs_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    parameters = [cell for cell in cells() if "parameters" in cell["metadata"].get("tags", [])]
    assert len(parameters) == 1
    names: dict[str, Any] = {}
    for cell in cells():
        exec(SHRUNK if cell in parameters else "".join(cell["source"]), names)
    assert set(SHRUNK.split(" = ")[0].split(", ")) == set(assigned("".join(parameters[0]["source"])))
    assert len(names["explanations"]) == 6
    assert names["model"].fc.k == 5
    for why in names["explanations"]:
        assert len(why.units) <= 5
        assert why.logit == pytest.approx(why.bias + sum(why.products), abs=1e-4)
        assert why.maps.sum().item() == pytest.approx(sum(why.products), abs=1e-4)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "A converted network on generated scenes" in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [each["name"] for each in data["instances"]] == [f"scene {i}" for i in range(6)]
    assert data["k"] == 5


def assigned(source: str) -> list[str]:
    names: dict[str, Any] = {}
    exec(source, names)
    return [name for name in names if name.isupper()]
