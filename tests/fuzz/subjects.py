"""Every kind of file that is read: how a good one is made, and how it is read and used. A new reader is one more here."""

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

import dynamick as dk
from dynamick import models
from dynamick.comparison import cell
from dynamick.comparison.cache import cache_features, open_features
from dynamick.data.broden import Broden
from dynamick.data.checking import check, open_concepts
from dynamick.data.images import ImageTensors
from dynamick.data.recipe import DataRecipe, folder_recipe, open_images
from dynamick.data.scenes import ComposedScenes
from dynamick.demo.budget import begun
from dynamick.dissection import saving
from dynamick.explanation.dissected import read_units
from dynamick.figures.runs import read_run
from dynamick.networks.classes import read_names
from dynamick.networks.opening import new_network
from dynamick.preprocessing import Preprocessing
from dynamick.retrofit.checks import check_same
from dynamick.training import train
from dynamick.training.folder import refuse_another
from dynamick.training.recipe import Recipe
from dynamick.training.state import AtomicCheckpointIO

OTHERS = "torchvision:shufflenet_v2_x0_5"
CLASSES = ["cat", "dog", "owl"]


@dataclass(frozen=True)
class Subject:
    """One kind of file, or folder of files.

    Attributes:
        make: writes good ones into an empty folder.
        use: reads what is in the folder, and does with it what a command would do.
        files: which of them are damaged.
    """

    make: Callable[[Path], object]
    use: Callable[[Path], object]
    files: str = "**/*"


def network() -> Any:
    torch.manual_seed(0)
    return models.create("res8-d2a", 3, "patch", 2, Preprocessing(8), CLASSES).eval()


def use_network(file: Path) -> None:
    """Open it by the call that every command opens its networks by, and show it an image."""
    opened = dk.open_network(file)
    side = min(opened.preprocessing.size or 8, 64) if opened.preprocessing else 8
    with torch.no_grad():
        opened.model(torch.zeros(1, 3, side, side))
    assert all(isinstance(name, str) for name in opened.classes)


def make_of_others(folder: Path) -> None:
    model: Any = dk.convert(new_network(OTHERS, 3), 2)
    model.preprocessing, model.classes = Preprocessing(32), CLASSES
    dk.save(model, folder / "weights.safetensors")


def make_first_format(folder: Path) -> None:
    """As `dynamick retrofit` wrote networks of others first."""
    model = dk.convert(new_network(OTHERS, 3), 2)
    about = {"model": "shufflenet_v2_x0_5", "classifier": "fc", "k": "2", "rule": "at_most", "classes": "\n".join(CLASSES)}
    about["preprocessing"] = json.dumps(Preprocessing(32).to_dict())
    safetensors.torch.save_file(model.state_dict(), folder / "weights.safetensors", about)


def make_state_dict(folder: Path) -> None:
    model = new_network(OTHERS, 3)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, folder / "weights.pt")


def use_state_dict(folder: Path) -> None:
    opened = dk.open_network(OTHERS, folder / "weights.pt", size=32)
    with torch.no_grad():
        opened.model(torch.zeros(1, 3, 32, 32))


def concepts() -> ComposedScenes:
    return ComposedScenes("val", 4, image_size=32)


def write_broden(folder: Path) -> None:
    concepts().write_broden(folder / "set")


def use_concepts(folder: Path) -> None:
    """Check it as `--check` does, and read all of it as a dissection does."""
    assert all("\n" not in problem for problem in check(folder / "set"))
    data = open_concepts(folder / "set")
    for index in range(len(data)):
        assert data[index].image.ndim == 3
    data.fingerprint()


def write_masks(folder: Path) -> None:
    for name in ("one", "two"):
        for part in ("images", "masks/dot"):
            (folder / "set" / part).mkdir(parents=True, exist_ok=True)
            shape = (12, 10, 3) if part == "images" else (12, 10)
            pixels = np.random.default_rng(0).integers(0, 2, shape, np.uint8) * 255
            Image.fromarray(pixels).save(folder / "set" / part / f"{name}.png")


class InterruptedHereError(Exception):
    """What ends a dissection half-way."""


class Stops:
    """Concepts that can be read a few times only."""

    def __init__(self, data: Any, left: float) -> None:
        self.data, self.left = data, left
        self.labels, self.categories, self.map_size = data.labels, data.categories, data.map_size
        self.fingerprint = data.fingerprint

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise InterruptedHereError
        return self.data[index]


def dissected(folder: Path, left: float = math.inf, layer: str = "layer1") -> Any:
    """A dissection of four images, which goes on from what `state/` holds."""
    data = Stops(Broden(folder / "set"), left)
    options: dict[str, Any] = {"batch_size": 1, "progress": False, "passes": 1, "quantile": 0.5}
    return dk.dissect(network(), layer, data, state=folder / "state", **options)


def use_state(folder: Path) -> None:
    """Say how far it is, as `explain` does, and go on with it."""
    saving.recorded(folder / "state")
    dissected(folder)


def make_state(folder: Path) -> None:
    """What a dissection leaves that was interrupted while it counted."""
    write_broden(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "SAVE_EVERY", 0.0)
        with contextlib.suppress(InterruptedHereError):
            dissected(folder, left=7)


def write_dissection(folder: Path) -> None:
    write_broden(folder)
    found = dissected(folder, layer="layer3")
    found.write_tally(folder / "tally.csv")
    (folder / "dissection.json").write_text(found.to_json())


def use_units(file: Path) -> None:
    """Read it as `explain --units` does; whatever was accepted can be summed up and written."""
    units = read_units(file)
    assert units is not None
    assert len(units.labels) == len(units.scores) == len(units.rows)
    units.summary()
    units.write_tally(file.with_name("again.csv"))


def write_classes(folder: Path) -> None:
    for split in ("train", "val"):
        for number, name in enumerate(CLASSES[:2]):
            (folder / split / name).mkdir(parents=True)
            pixels = np.full((9, 11, 3), 80 * number + 20, np.uint8)
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.fromarray(pixels).save(folder / split / name / "one.jpg", exif=exif)
            Image.fromarray(pixels).save(folder / split / name / "two.png")


def use_classes(folder: Path) -> None:
    for split in ("train", "val"):
        images = open_images(folder_recipe(folder, 8), split)
        images.take(range(len(images)))


def write_table(folder: Path) -> None:
    """Images of several labels each."""
    for split in ("train", "val"):
        lines = ["file,cat,dog"]
        for number in range(4):
            name = f"{split}-{number}.png"
            Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(folder / name)
            lines.append(f"{name},{number % 2},{number // 2}")
        (folder / f"{split}.csv").write_text("\n".join(lines))


def use_table(folder: Path) -> None:
    for split in ("train", "val"):
        images = open_images(DataRecipe("csv", str(folder), 8, in_memory=False), split)
        images.take(range(len(images)))


RECIPE: dict[str, Any] = {
    "model": "res8-d2a",
    "stem": "patch",
    "width": 2,
    "precision": "32",
    "data": {"kind": "scenes", "size": 32, "train_images": 64, "val_images": 100, "pad": 2},
    "optim": {"epochs": 1, "batch_size": 32, "lr": 0.1, "schedule": "onecycle", "head_weight_decay": 0.05},
}


def write_recipe(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))


def make_run(folder: Path) -> None:
    train(Recipe.from_dict(RECIPE), folder)


def use_run(folder: Path) -> None:
    """Read it as `reproduce` does, and as a training that goes on."""
    run = read_run(folder)
    assert len(run.history) >= run.recipe.optim.epochs
    refuse_another(folder, run.recipe)
    begun(folder)


def use_checkpoint(folder: Path) -> None:
    AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt")


def images() -> ImageTensors:
    drawn = torch.randint(0, 256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageTensors(drawn, torch.arange(12) % 3, CLASSES)


def make_cache(folder: Path) -> None:
    cache_features(network(), images(), folder / "cache")


def use_cache(folder: Path) -> None:
    """Go on with it, and read it."""
    cache_features(network(), images(), folder / "cache")
    assert len(open_features(folder / "cache")) == 12


def write_cell(folder: Path) -> None:
    figures = {"top1": 0.5, "loss": 1.25, "nec": None}
    cell.write(
        folder / "cell.json", cell.Cell("dynamic-at-most", 5, 0, "abc", figures, {"steps": 3.0}, 5, "at_most"), network().fc
    )


def use_cell(folder: Path) -> None:
    cell.read(folder / "cell.json")
    if cell.is_done(folder / "cell.json"):
        head = cell.load_head(folder / "cell.json")
        head(torch.zeros(1, head.in_features))  # type: ignore[arg-type]


def write_retrofit(folder: Path) -> None:
    (folder / "retrofit.json").write_text(json.dumps({"before": 0.5, "k": 5, "rule": "at_most", "weights": "abc", "seed": 0}))


def use_names(folder: Path) -> None:
    assert all(isinstance(name, str) and "\n" not in name for name in read_names(folder / "classes.txt"))


SUBJECTS: dict[str, Subject] = {
    "weights": Subject(lambda f: dk.save(network(), f / "w.safetensors"), lambda f: use_network(f / "w.safetensors")),
    "weights of others, first format": Subject(make_first_format, lambda f: use_network(f / "weights.safetensors")),
    "weights of others": Subject(make_of_others, lambda f: use_network(f / "weights.safetensors")),
    "state dict": Subject(make_state_dict, use_state_dict),
    "tally": Subject(write_dissection, lambda f: use_units(f / "tally.csv"), "tally.csv"),
    "dissection.json": Subject(write_dissection, lambda f: use_units(f / "dissection.json"), "dissection.json"),
    "state of a dissection": Subject(make_state, use_state, "state/**/*"),
    "Broden directory": Subject(write_broden, use_concepts),
    "masks": Subject(write_masks, use_concepts),
    "folders of classes": Subject(write_classes, use_classes),
    "table of images": Subject(write_table, use_table),
    "recipe": Subject(write_recipe, lambda f: Recipe.read(f / "recipe.yaml")),
    "run folder": Subject(make_run, use_run, "*.*"),
    "state of a training": Subject(make_run, use_checkpoint, "last.ckpt"),
    "cache": Subject(make_cache, use_cache),
    "cell": Subject(write_cell, use_cell),
    "retrofit.json": Subject(write_retrofit, lambda f: check_same(f / "retrofit.json", {"k": 5, "weights": "abc"})),
    "class names": Subject(lambda f: (f / "classes.txt").write_text("cat\ndög\nowl\n"), use_names),
}
