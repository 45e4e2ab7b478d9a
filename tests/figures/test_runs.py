"""Finished trainings as figures read them: what is damaged, and which may be averaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamick.cli.main import main


@pytest.mark.parametrize(("change", "said"), [({"width": 8}, "width: 8 there, 4 here"), ({"static_after": 1}, "")])
def test_only_runs_that_differ_in_their_seeds_are_averaged(
    change: dict[str, Any],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make_run: Callable[..., Path],
    edit: Callable[..., str],
) -> None:
    runs = [make_run(tmp_path / name, "res8-d5a", 83.0, 0.9) for name in ("a", "b", "c")]
    edit(runs[1], seed=1), edit(runs[2], seed=2, **change)
    given = ["reproduce", "table1", *map(str, runs), "--out", str(tmp_path / "out")]
    if not said:  # which is another kind of row
        main(given)
        assert sorted(row["runs"] for row in json.loads((tmp_path / "out" / "table1.json").read_text())["rows"]) == [1, 2]
        return
    with pytest.raises(SystemExit) as stop:
        main(given)
    err = capsys.readouterr().err
    assert (stop.value.code, len(err.splitlines())) == (2, 1)
    assert f"{runs[2]}: another res8-d5a than {runs[0]} ({said})" in err


@pytest.mark.parametrize("change", [{"model": 5}, {"optim": {"epochs": "x"}}, {"optim": 3}, {"colour": "red"}, {"width": -1}])
def test_a_recipe_that_was_edited_is_damaged(
    change: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make_run: Callable[..., Path],
    edit: Callable[..., str],
) -> None:
    run = edit(make_run(tmp_path / "a", "res8", 83.0, 0.9), **change)
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", "table1", run, "--out", str(tmp_path / "out")])
    err = capsys.readouterr().err
    assert (stop.value.code, len(err.splitlines())) == (2, 1)
    assert "config.yaml: damaged, or no training's" in err


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        b"a\rb\n",
        b"epoch,top1\n1,2\n2,3\n",
        b"epoch,top1,sparse_share\n1,x,0\n2,y,0\n",
        b"epoch,top1,sparse_share\n1,9,0\n2,nan,0\n",
        b"epoch,top1,sparse_share\n1,9,0\n2,9,inf\n",
        b"a\n1,2\n3,4\n",
    ],
)
def test_damaged_figures_are_not_blamed_on_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes, make_run: Callable[..., Path]
) -> None:
    run = make_run(tmp_path / "run", "res8", 30.0, 0.0)
    (run / "metrics.csv").write_bytes(text)
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", "table1", str(run), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert f"{run / 'metrics.csv'}: damaged" in capsys.readouterr().err
