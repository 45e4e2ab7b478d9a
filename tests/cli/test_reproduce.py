"""`dynamick reproduce`: the paper's numbers beside those of runs made here by hand, so that every figure is known."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import dynamick as dk
from dynamick import models
from dynamick.cli.main import main
from dynamick.training.recipe import Recipe

COLUMNS = ("epoch", "seconds", "train_loss", "top1", "sparse_share")


def make_run(folder: Path, model: str, top1: float, sparse: float, kind: str = "cifar10", epochs: int = 2) -> Path:
    """A run's folder as `dynamick train` leaves it, with these last figures."""
    folder.mkdir(parents=True)
    recipe: dict[str, Any] = Recipe(model=model, width=4).to_dict()
    recipe["data"] |= {"kind": kind, "root": "data/places"}
    recipe["optim"]["epochs"] = 2
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    rows = [(epoch, 1.0, 0.5, top1 - (epochs - epoch), sparse) for epoch in range(1, epochs + 1)]
    (folder / "metrics.csv").write_text("\n".join([",".join(COLUMNS), *(",".join(map(str, row)) for row in rows)]) + "\n")
    torch.manual_seed(0)
    net = models.create(model, 3, "cifar", 4)
    with torch.no_grad():
        # Class c is made of unit c alone, but the last one of eight units.
        net.fc.weight.zero_()
        net.fc.weight[0, 0] = net.fc.weight[1, 1] = 1
        net.fc.weight[2, 2:10] = 1
    dk.save(net, folder / "last.safetensors")
    return folder


@pytest.fixture
def cifar(tmp_path: Path) -> list[str]:
    made = [("res8-0", "res8", 83.0, 0.01), ("res8-1", "res8", 84.0, 0.03), ("res8-d5a-0", "res8-d5a", 83.4, 0.96)]
    made += [("l1-0", "res8-l1", 82.0, 0.97)]
    return [str(make_run(tmp_path / name, *rest)) for name, *rest in made]


def tally(path: Path, score: float) -> None:
    """A dissection of 16 units, each of a concept of its own."""
    path.parent.mkdir(parents=True)
    lines = ["unit,category,label,score,object-label,object-truth,object-activation,object-intersect,object-iou"]
    overlap = round(200 * score / (1 + score))
    for unit in range(1, 17):
        lines.append(f"{unit},object,thing{unit},{score},thing{unit},100,100,{overlap},{score}")
    path.write_text("\n".join(lines) + "\n")


def test_table_1(cifar: list[str], tmp_path: Path) -> None:
    main(["reproduce", "table1", *cifar, "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "table1.json").read_text())
    rows = {row["head"]: row for row in found["rows"]}
    assert [row["head"] for row in found["rows"]] == ["d5", "l1", "dense"]
    assert (rows["dense"]["top1"], rows["dense"]["runs"], rows["dense"]["paper"]) == (83.5, 2, 95.10)
    assert rows["dense"]["top1_std"] == pytest.approx(0.5**0.5)
    assert found["verdicts"] == ["res8-d5a behind dense by +0.10 points (paper: -0.02): holds"]
    text = (tmp_path / "out" / "table1.md").read_text()
    assert "width 4, 2 epochs" in text
    assert "| res8 | 2 | 95.10 | 83.50 ± 0.71 | 2.0 ± 1.4 |" in text


def test_figure_4_says_what_fails(cifar: list[str], tmp_path: Path) -> None:
    main(["reproduce", "fig4", *cifar, "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "fig4.json").read_text())
    assert [each.rsplit(" ", 1)[1] for each in found["verdicts"]] == ["fails", "holds"]
    # The smaller size is stated in the figure itself.
    assert "width 4, 2 epochs" in (tmp_path / "out" / "fig4.svg").read_text()


@pytest.mark.parametrize("figure", ["fig5", "fig6"])
def test_figures_of_dissected_runs(tmp_path: Path, figure: str) -> None:
    runs = []
    for name, model, score in (("a", "res8", 0.05), ("b", "res8-d5a", 0.08)):
        runs.append(str(make_run(tmp_path / name, model, 30.0, 0.9 if name == "b" else 0.0, "folder")))
        tally(tmp_path / "dissected" / name / "tally.csv", score)
    main(["reproduce", figure, *runs, "--dissections", str(tmp_path / "dissected"), "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / f"{figure}.json").read_text())
    row = found["rows"][0]
    # Two of three classes are one concept each; the third is eight.
    assert (row["model"], row["covered"], row["paper"]) == ("res8-d5a", pytest.approx(200 / 3), 53.60)
    ends = [each.rsplit(" ", 1)[1] for each in found["verdicts"]]
    assert ends == (["holds"] * 3 if figure == "fig5" else ["fails"])
    assert "3 classes" in (tmp_path / "out" / f"{figure}.svg").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["fig3"], "reproduce fig3: no runs"),
        (["fig9"], "reproduce fig9: no such figure"),
        (["table1"], "no runs"),
        (["table1", "nowhere"], "nowhere: no finished training (config.yaml is missing)"),
        (["fig4", "places"], "places: trained on folder; the paper's fig4 is of cifar10"),
        (["fig5", "places"], "give --dissections DIR"),
        (["fig5", "places", "--dissections", "d"], "d/places/tally.csv: no such file"),
        (["table1", "short"], "short: 1 of 2 epochs are done"),
        (["table1", "places", "whole"], "of different data"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("places"), "res8", 30.0, 0.0, "folder")
    make_run(Path("whole"), "res8", 30.0, 0.0)
    make_run(Path("short"), "res8", 30.0, 0.0, epochs=1)
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", *given])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("reproduced").exists()
