"""The main job, on a hundredth of its images."""

import re
from pathlib import Path

import pytest
import yaml

from dynamick.cli import demo, demo_scenes
from dynamick.cli.main import main
from dynamick.training import read_history

TINY = {
    "model": "res8-d5a",
    "stem": "compact",
    "width": 8,
    "data": {"kind": "scenes", "size": 64, "train_images": 128, "val_images": 60},
    "optim": {"epochs": 2, "batch_size": 64, "schedule": "onecycle", "head_weight_decay": 0.05},
}


@pytest.mark.slow
def test_the_demo_goes_from_nothing_to_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.setitem(demo.RECIPES, "scenes", str(tmp_path / "tiny.yaml"))
    monkeypatch.setattr(demo_scenes, "SCENES", 40)
    monkeypatch.setattr(demo_scenes, "EXPLAINED", 10)
    out = tmp_path / "demo"
    main(["demo", "--out", str(out)])
    said = capsys.readouterr().out
    for title in ("Dense", "L1", "Dynamic-5"):
        assert re.search(rf"^{title} +\d+\.\d\d", said, re.MULTILINE), said
    page = (out / "report.html").read_text()
    for column in ("parts found", "parts: precision", "parts: recall", "heat: precision", "heat: recall"):
        assert column in page
    assert 'href="explanations.html"' in page
    assert "scene 39" in (out / "explanations.html").read_text()
    assert not re.search(r'(src|href)="https?://', page)
    assert len(read_history(out / "dynamic-5")) == 2
    assert len((out / "dynamic-5" / "tally.csv").read_text().splitlines()) == 33
    # Once more: nothing is trained again, and a smaller budget does not change what was begun.
    trained = (out / "dense" / "last.safetensors").stat().st_mtime_ns
    main(["demo", "--out", str(out), "--minutes", "0.0001"])
    assert (out / "dense" / "last.safetensors").stat().st_mtime_ns == trained
    # A budget that holds less than the recipe's epochs.
    main(["demo", "--out", str(out), "--minutes", "0.0001", "--restart"])
    assert "hold 1 epochs" in capsys.readouterr().out
    assert len(read_history(out / "dense")) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--minutes", "0"], "--minutes: 0.0 must be a number above 0"),
        (["--minutes", "nan"], "--minutes: nan must be"),
        (["--data", "cifar10", "--root", "/nowhere"], "/nowhere/cifar-10-batches-py: missing or damaged"),
        (["--data", "mnist"], "invalid choice: 'mnist'"),
    ],
)
def test_bad_input(args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--out", str(tmp_path), *args])
    err = capsys.readouterr().err
    assert (stop.value.code, len(err.strip().splitlines())) == (2, 1)
    assert message in err
