"""Runs as `dynamick train` leaves them, with numbers that are known, and a recipe that trains in seconds."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import dynamick as dk
from dynamick import models
from dynamick.cli.main import main
from dynamick.data import ComposedScenes
from dynamick.figures import find, names
from dynamick.figures.runs import Run
from dynamick.figures.trainings import Training, trainings
from dynamick.training.recipe import DataRecipe, Recipe

COLUMNS = ("epoch", "seconds", "train_loss", "top1", "sparse_share")


def _make_run(folder: Path, model: str, top1: float, sparse: float, kind: str = "cifar10", epochs: int = 2) -> Path:
    """A run's folder as `dynamick train` leaves it, with these last figures."""
    folder.mkdir(parents=True)
    recipe: dict[str, Any] = Recipe(model=model, width=4).to_dict()
    recipe["data"] |= {"kind": kind, "root": "data/places"}
    recipe["optim"] |= {"epochs": 2, "l1": 0.1 if model.endswith("-l1") else 0.0}
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
def make_run() -> Callable[..., Path]:
    return _make_run


def _tally(path: Path, score: float) -> None:
    """A dissection of 16 units, each of a concept of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["unit,category,label,score,object-label,object-truth,object-activation,object-intersect,object-iou"]
    overlap = round(200 * score / (1 + score))
    for unit in range(1, 17):
        lines.append(f"{unit},object,thing{unit},{score},thing{unit},100,100,{overlap},{score}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def tally() -> Callable[[Path, float], None]:
    return _tally


def _edit(folder: Path, **changes: Any) -> str:
    """Change a run's recipe; `optim` is changed key by key."""
    recipe = yaml.safe_load((folder / "config.yaml").read_text())
    if isinstance(changes.get("optim"), dict):
        changes["optim"] = recipe["optim"] | changes["optim"]
    (folder / "config.yaml").write_text(yaml.safe_dump({**recipe, **changes}))
    return str(folder)


@pytest.fixture
def edit() -> Callable[..., str]:
    return _edit


@pytest.fixture
def cifar(tmp_path: Path) -> list[str]:
    """Finished runs on CIFAR-10: two dense, one Dynamic-5, one with L1."""
    made = [("res8-0", "res8", 83.0, 0.01), ("res8-1", "res8", 84.0, 0.03), ("res8-d5a-0", "res8-d5a", 83.4, 0.96)]
    made += [("l1-0", "res8-l1", 82.0, 0.97)]
    return [str(_make_run(tmp_path / name, *rest)) for name, *rest in made]


def _scenes_run(model: str, size: int = 32, seed: int = 1, folder: str = "run") -> Run:
    """An untrained network of ten classes of scenes, as a run."""
    recipe = Recipe(model=model, width=4, stem="patch", data=DataRecipe("scenes", size=size, val_images=12))
    torch.manual_seed(seed)
    name = models.parse(model)
    network = models.create(model, 10, "patch", 4, classes=ComposedScenes("val", 1).classes).eval()
    return Run(Path(folder), model, name.label, name.routed, name.depth, recipe, network)


@pytest.fixture
def scenes_run() -> Callable[..., Run]:
    return _scenes_run


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small recipe on a folder of images of two colours; the figures are made to need its dense and Dynamic-2 models."""
    for split, count in (("train", 16), ("val", 8)):
        for value, name in ((40, "dark"), (200, "light")):
            place = tmp_path / "data" / "mini" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (16, 16), (value + number,) * 3).save(place / f"{number}.png")
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "model: res8-d2a\nstem: patch\nwidth: 8\ndata: {kind: folder, root: data/mini, size: 16}\n"
        "optim: {epochs: 1, batch_size: 8, lr: 0.01}\n"
    )
    for name in names():
        figure = find(name)
        if figure.needs:
            changed = replace(figure, needs={str(recipe): ("", "-d2a")})
            monkeypatch.setattr(f"dynamick.figures.paper.{name}.FIGURE", changed)
    return tmp_path


@pytest.fixture
def reproduce(own: Path) -> Callable[..., dict[str, Any]]:
    """The command, two seeds, on the small recipe; returns what the figure's JSON holds."""

    def reproduce(figure: str, *more: str) -> dict[str, Any]:
        main(["reproduce", figure, "--seeds", "2", "--data", str(own / "data"), "--out", str(own / "out"), *more])
        found: dict[str, Any] = json.loads((own / "out" / f"{figure}.json").read_text())
        return found

    return reproduce


@pytest.fixture
def refused(reproduce: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that the command ends with."""

    def refused(figure: str, *more: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            reproduce(figure, *more)
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert len(err.strip().splitlines()) == 1
        return err

    return refused


@pytest.fixture
def scenes(own: Path) -> Path:
    """Images with label maps, which the small recipe's networks are dissected on."""
    ComposedScenes("val", 20, seed=3, image_size=32).write_broden(own / "data" / "minibroden")
    return own / "data" / "minibroden"


@pytest.fixture
def epochs(own: Path) -> Callable[..., None]:
    """Changes how long the small recipe trains."""

    def epochs(count: int, **optim: Any) -> None:
        recipe = yaml.safe_load((own / "tiny.yaml").read_text())
        recipe["optim"] |= {"epochs": count, **optim}
        (own / "tiny.yaml").write_text(yaml.safe_dump(recipe))

    return epochs


@pytest.fixture
def needed(own: Path) -> Callable[..., list[Training]]:
    """The trainings that the small recipe's figures need."""

    def needed(seeds: int = 1) -> list[Training]:
        return trainings(find("fig5").needs, own / "out" / "runs", seeds, own / "data")

    return needed
