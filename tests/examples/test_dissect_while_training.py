"""The example runs as written, on a few scenes."""

import csv
import runpy
import sys
from pathlib import Path

import matplotlib.image
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "dissect_while_training.py"


@pytest.mark.slow
def test_it_draws_a_line_for_each_network(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["example", "--out", str(tmp_path), "--epochs", "2", "--images", "400"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("D")]
    assert [(line[0], len(line)) for line in lines] == [("Dense", 3), ("Dynamic-5", 3)]
    assert all(0 < float(score) < 1 for line in lines for score in line[1:])
    assert matplotlib.image.imread(tmp_path / "score-over-training.png").shape == (600, 900, 4)
    with (tmp_path / "res8" / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
