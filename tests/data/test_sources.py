"""Sources of labelled images: every one of them keeps to the same protocol, and a new one is one new file."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynamick import data
from dynamick.data import sources
from dynamick.data.labelled import LabelledImages
from dynamick.data.loading import taken_ahead
from dynamick.data.pictures import class_of, read_pictures
from dynamick.data.recipe import DataRecipe, folder_recipe, open_images
from dynamick.errors import InputError

TOY = '''
"""Plain squares."""

import torch

from dynamick.data.images import ImageTensors
from dynamick.data.sources import Source


def _open(recipe, split):
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, recipe.size, recipe.size)
    return ImageTensors(images, torch.arange(6) % 2, ["even", "odd"])


SOURCE = Source("plain squares", _open, needs_root=False)
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 256, (40 + 4 * i, 36, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def recipes(root: Path) -> list[DataRecipe]:
    folders = [DataRecipe("folder", str(root), 32, in_memory=whole) for whole in (True, False)]
    return [*folders, DataRecipe("scenes", size=32, train_images=6, val_images=6)]


def opened(root: Path) -> list[LabelledImages]:
    return [open_images(recipe, "train") for recipe in recipes(root)]


def test_every_source_keeps_to_the_protocol(tree: Path) -> None:
    for images in opened(tree):
        assert (len(images), images.side, len(images.names), len(set(images.names))) == (6, 32, 6, 6)
        assert images.labels.dtype == torch.int64
        assert int(images.labels.max()) < len(images.classes)
        taken, labels = images.take([4, 1])
        assert (taken.dtype, tuple(taken.shape)) == (torch.uint8, (2, 3, 32, 32))
        assert torch.equal(labels, images.labels[[4, 1]])
        every = torch.cat([x for x, _ in images.batches(4)])
        assert torch.equal(every[[4, 1]], taken)
        assert (images.moments() is None) == (not images.in_memory)


def test_batches_that_are_decoded_ahead_come_in_order(tree: Path) -> None:
    batches = [[4, 1], [0], [2, 3, 5]] * 20
    for images in opened(tree):
        for places, (taken, labels) in zip(batches, taken_ahead(images, batches), strict=True):
            assert torch.equal(taken, images.take(places)[0])
            assert torch.equal(labels, images.labels[places])


@pytest.mark.parametrize("where", ["train", "."])
def test_a_folder_without_val_is_parted(tmp_path: Path, where: str) -> None:
    """Every fifth image of a class is for validation, of few the last one; both kinds of recipe part alike."""
    counts = {"ant": 11, "bee": 5, "cat": 3}
    for name, count in counts.items():
        (tmp_path / where / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / where / name / f"{number:02}.png")
    for recipe in (DataRecipe("folder", str(tmp_path), 16, in_memory=whole) for whole in (True, False)):
        train, val = (open_images(recipe, split) for split in ("train", "val"))
        assert val.names == ["ant/04.png", "ant/09.png", "bee/04.png", "cat/02.png"]
        assert val.take([1])[0].unique().tolist() == [0, 9]
        assert (len(train), set(train.names) & set(val.names)) == (15, set())
        assert (
            recipe.how_split == f"{tmp_path}: no val/: every 5th image of a class is kept for validation, and not learnt from"
        )
    read = read_pictures(tmp_path / "val", 99)
    assert read.names == val.names
    assert [class_of(file, read.root, val.classes) for file in read.files] == [0, 0, 1, 2]
    (tmp_path / where / "cat" / "00.png").unlink()
    (tmp_path / where / "cat" / "01.png").unlink()
    with pytest.raises(InputError, match="cat: one image only; without val/ each class needs two"):
        open_images(recipe, "val")


def test_what_has_a_val_is_not_parted(tree: Path) -> None:
    assert folder_recipe(tree).how_split is None
    (tree / "val").rename(tree / "other")
    assert len(open_images(folder_recipe(tree), "train")) == 4
    (tree / "other").rename(tree / "val")
    (tree / "train").rename(tree / "other")
    assert len(open_images(folder_recipe(tree), "val")) == 6
    with pytest.raises(InputError, match="train: no such folder"):
        open_images(folder_recipe(tree), "train")


def test_an_image_that_cannot_be_read_is_told_when_it_is_asked_for(tree: Path) -> None:
    (tree / "train" / "dog" / "1.png").write_bytes(b"")
    taken = taken_ahead(open_images(DataRecipe("folder", str(tree), 32, in_memory=False), "train"), [[0], [3], [4]])
    assert [int(next(taken)[1]) for _ in range(2)] == [0, 1]
    with pytest.raises(InputError, match=r"dog/1\.png"):
        next(taken)


def test_training_batches_depend_on_seed_and_epoch_alone(tree: Path) -> None:
    for images in opened(tree):
        first, again, later = (list(images.training_batches(4, seed=3, epoch=epoch)) for epoch in (1, 1, 2))
        assert [len(y) for _, y in first] == [4]
        assert torch.equal(first[0][0], again[0][0])
        assert not torch.equal(first[0][0], later[0][0])
        shares = [list(images.training_batches(4, 3, 1, rank, 2)) for rank in range(2)]
        assert all(torch.equal(first[0][0][rank::2], shares[rank][0][0]) for rank in range(2))
        with pytest.raises(InputError, match="batch_size: 7 is more than the 6 training images"):
            images.training_batches(7)


def test_a_fingerprint_tells_images_apart(tree: Path) -> None:
    before = [images.fingerprint() for images in opened(tree)]
    assert [images.fingerprint() for images in opened(tree)] == before
    assert len(set(before)) == 3
    file = tree / "train" / "dog" / "1.png"
    Image.new("RGB", (40, 40)).save(file)
    os.utime(file, (1, 1))
    after = [images.fingerprint() for images in opened(tree)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True]


def test_names_are_files_below_the_splits_folder_or_numbers(tree: Path) -> None:
    in_memory, from_disk, scenes = opened(tree)
    assert in_memory.names == from_disk.names
    assert from_disk.names[3] == "dog/0.png"
    assert scenes.names[3] == "scene 3"


def test_another_size_is_that_of_every_source(tree: Path) -> None:
    for recipe in recipes(tree):
        images = open_images(recipe, "val", 33)
        assert images.side == images.take([0])[0].shape[-1] == 33
    squares = torch.full((2, 3, 8, 8), 7, dtype=torch.uint8)
    resized = data.ImageTensors(squares, torch.arange(2), ["a", "b"]).resized(5)
    assert (resized.side, resized.images.unique().tolist()) == (5, [7])


def test_what_a_recipe_says_of_its_source(tree: Path) -> None:
    cifar10, scenes = DataRecipe(size=64), DataRecipe("scenes", size=48)
    assert (cifar10.side, cifar10.title, cifar10.name, cifar10.where) == (32, "CIFAR-10", "cifar10", "data")
    assert (scenes.side, scenes.title, scenes.name, scenes.where) == (48, "generated scenes", "scenes", "generated scenes")
    mine = DataRecipe("folder", "sets/birds", in_memory=False)
    assert (mine.title, mine.name, mine.where) == ("birds", "birds", "sets/birds")
    assert [each.center_crop for each in (cifar10, scenes, mine)] == [False, False, True]


def test_a_users_folder_is_shown_as_the_networks_own_images_were() -> None:
    assert folder_recipe("birds") == DataRecipe("folder", "birds", 224, in_memory=False)
    assert folder_recipe("birds", 96) == DataRecipe("folder", "birds", 96, in_memory=False)
    assert folder_recipe("birds", None, DataRecipe()) == DataRecipe("folder", "birds", 32)
    like = DataRecipe("folder", "fish", 160, in_memory=False)
    assert folder_recipe("birds", None, like) == DataRecipe("folder", "birds", 160, in_memory=False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "imagenet"}, "data.kind: 'imagenet' is unknown; give cifar10, csv, folder, scenes"),
        ({"kind": "scenes", "size": 8}, "data.size: 8 must be an integer from 32 up for scenes"),
        ({"val_images": 0}, "data.val_images: 0 must be an integer from 1 up"),
        ({"pad": -1}, "data.pad: -1 must be a number from 0 up"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, int | str], said: str) -> None:
    with pytest.raises(InputError) as raised:
        DataRecipe(**settings).check()  # type: ignore[arg-type]
    assert str(raised.value) == said


def test_a_split_that_there_is_not() -> None:
    with pytest.raises(InputError, match="split: 'test' is unknown of generated scenes; give train or val"):
        open_images(DataRecipe("scenes"), "test")


def test_a_new_source_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squares.py").write_text(TOY)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    assert "squares" in sources.names()
    recipe = DataRecipe("squares", size=5)
    recipe.check()
    images = open_images(recipe, "train")
    assert (recipe.title, images.side, images.classes) == ("plain squares", 5, ["even", "odd"])
    assert len(list(images.training_batches(3))) == 2
