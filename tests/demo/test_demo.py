"""The main job, on a hundredth of its images."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from dynamick.cli.main import main
from dynamick.data.images import ImageTensors
from dynamick.demo import Demo, budget, running, scenes
from dynamick.errors import InputError
from dynamick.training import Recipe, read_history
from dynamick.training.recipe import OptimRecipe

TINY = {
    "model": "res8-d5a",
    "stem": "compact",
    "width": 8,
    "data": {"kind": "scenes", "size": 64, "train_images": 128, "val_images": 60},
    "optim": {"epochs": 2, "batch_size": 64, "schedule": "onecycle", "head_weight_decay": 0.05},
}


HUNDRED = ImageTensors(torch.zeros(100, 3, 8, 8, dtype=torch.uint8), torch.arange(100) % 2, ["a", "b"])


@pytest.mark.slow
def test_the_demo_goes_from_nothing_to_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.setitem(running.RECIPES, "scenes", str(tmp_path / "tiny.yaml"))
    monkeypatch.setattr(scenes, "SCENES", 40)
    monkeypatch.setattr(scenes, "EXPLAINED", 10)
    out = tmp_path / "demo"
    main(["demo", "--out", str(out)])
    said = capsys.readouterr().out
    for title in ("Dense", "L1", "Dynamic-5"):
        assert re.search(rf"^{title} +\d+\.\d\d", said, re.MULTILINE), said
    page = (out / "report.html").read_text()
    for column in ("parts found", "parts: precision", "parts: recall", "heat: precision", "heat: recall"):
        assert column in page
    assert 'href="explanations.html"' in page
    assert "scene 40" in (out / "explanations.html").read_text()
    assert not re.search(r'(src|href)="https?://', page)
    assert len(read_history(out / "dynamic-5")) == 2
    assert len((out / "dynamic-5" / "tally.csv").read_text().splitlines()) == 33
    # Once more: nothing is trained again, and a smaller budget does not change what was begun.
    trained = (out / "dense" / "last.safetensors").stat().st_mtime_ns
    main(["demo", "--out", str(out), "--minutes", "0.0001"])
    assert f"{out}: goes on with the trainings there, of 2 epochs; --restart begins again" in capsys.readouterr().out
    assert (out / "dense" / "last.safetensors").stat().st_mtime_ns == trained
    assert made_by(out) == "dynamick demo --data scenes --seed 0"
    # A budget that holds less than one epoch, and the page that goes on with what it left.
    main(["demo", "--out", str(out), "--minutes", "0.0001", "--restart"])
    said = capsys.readouterr().out
    assert "--minutes 0.0001 holds not even one epoch a head here; one is done, in " in said
    assert "training 1 of 3: Dense (res8), 1 epoch\n" in said
    main(["demo", "--out", str(out)])
    assert "of 1 epoch; --restart begins again" in capsys.readouterr().out
    assert len(read_history(out / "dense")) == 1
    # In a fresh folder, the command on the page trains what the page shows.
    main([*shlex.split(made_by(out))[1:], "--out", str(tmp_path / "fresh")])
    assert (tmp_path / "fresh" / "dense" / "config.yaml").read_text() == (out / "dense" / "config.yaml").read_text()
    assert made_by(tmp_path / "fresh") == made_by(out)


def made_by(out: Path) -> str:
    found = re.search(r"<dt>Made by</dt><dd><code>(.*?)</code>", (out / "report.html").read_text())
    assert found is not None
    return found[1]


def test_the_command_on_the_page_names_the_folder_of_cifar10() -> None:
    demo = Demo("cifar10", "my data", seed=3)
    assert demo.command(None) == "dynamick demo --data cifar10 --root 'my data' --seed 3"
    assert demo.command(1) == "dynamick demo --data cifar10 --root 'my data' --seed 3 --epochs 1"


@pytest.mark.parametrize(
    ("minutes", "epochs", "said"),
    [
        (0.4, 1, "--minutes 0.4 holds not even one epoch a head here; one is done, in about 2 minutes"),
        (3, 1, "--minutes 3 holds 1 epoch a head here, of the recipe's 7"),
        (5, 2, "--minutes 5 holds 2 epochs a head here, of the recipe's 7"),
        (60, 7, ""),
    ],
)
def test_what_a_budget_holds(
    minutes: float, epochs: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe(optim=OptimRecipe(epochs=7, batch_size=10))
    monkeypatch.setattr(budget, "step_seconds", lambda *_: 4.0 / 1.2)  # of 10 steps and 3 heads: two minutes an epoch
    assert Demo(out=tmp_path, minutes=minutes).epochs_of(recipe, SimpleNamespace(train=HUNDRED)) == epochs  # type: ignore[arg-type]
    assert capsys.readouterr().out.strip() == said


@pytest.mark.parametrize("content", [b"\xff", b"optim: [", b"", b"optim: {}", b"optim: {epochs: many}"])
def test_a_damaged_recipe_in_the_demos_folder_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"config.yaml: is damaged, it holds no recipe; --restart begins again$"):
        Demo(out=tmp_path).epochs_of(Recipe(), SimpleNamespace(train=HUNDRED))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--minutes", "0"], "--minutes: 0.0 must be a number above 0"),
        (["--minutes", "nan"], "--minutes: nan must be"),
        (["--epochs", "0"], "--epochs: 0 must be an integer from 1 up"),
        (["--epochs", "1", "--minutes", "1"], "--minutes: not allowed with argument --epochs"),
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
