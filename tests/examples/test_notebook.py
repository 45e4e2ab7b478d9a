"""The notebook runs from its first cell to its last, shrunk, and its page holds the network's own numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "convert_to_page.ipynb"
SHRUNK = 'SCENES, HELD_OUT, EPOCHS, FINE_TUNE, DISSECTED, EXPLAINED, PAGE = 320, 64, 1, 1, 48, 6, "page.html"'


def cells() -> list[dict[str, Any]]:
    book: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def test_it_is_kept_without_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells())


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
    names["plt"].close("all")


def assigned(source: str) -> list[str]:
    names: dict[str, Any] = {}
    exec(source, names)
    return [name for name in names if name.isupper()]
