"""Batches and folders of labelled images."""

import itertools
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dynamick.data.class_folders import FolderImages, image_folder
from dynamick.data.images import Augmentation, Batches, ImageTensors, evenly_spaced
from dynamick.data.photographs import read_image
from dynamick.data.sources.cifar10 import cifar10
from dynamick.errors import InputError


def numbered(n: int, side: int = 4) -> ImageTensors:
    """Image i is filled with i, and so is its label."""
    labels = torch.arange(n)
    return ImageTensors(labels.to(torch.uint8)[:, None, None, None].expand(n, 3, side, side), labels, ["a", "b"])


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 4), st.integers(0, 3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_processes_share_the_same_batches(n: int, batch: int, world: int, epoch: int, shuffle: bool) -> None:
    batch = min(batch, n)
    data, augmentation = numbered(n), Augmentation(pad=1, flip=True)
    alone = list(Batches(data, batch, 7, epoch, augmentation, shuffle))
    shares = [list(Batches(data, batch, 7, epoch, augmentation, shuffle, rank, world)) for rank in range(world)]
    for number, (images, labels) in enumerate(alone):
        for rank in range(world):
            assert torch.equal(shares[rank][number][0], images[rank::world])
            assert torch.equal(shares[rank][number][1], labels[rank::world])
    seen = torch.cat([labels for _, labels in alone]).tolist()
    assert len(set(seen)) == len(seen)
    assert len(seen) == (n // batch * batch if shuffle else n)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        torch.rand(3)
        return torch.cat([y for _, y in Batches(numbered(50), 10, seed, epoch, None, True)]).tolist()

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_augmentation_is_a_padded_crop_and_a_flip() -> None:
    images = torch.randint(0, 256, (40, 3, 6, 5), dtype=torch.uint8)
    draws = torch.rand(40, 3)
    got = Augmentation(pad=2, flip=True)(images, draws)
    for i in range(40):
        padded = np.pad(images[i].numpy(), ((0, 0), (2, 2), (2, 2)))
        row, column = int(draws[i, 0] * 5), int(draws[i, 1] * 5)
        crop = padded[:, row : row + 6, column : column + 5]
        assert np.array_equal(got[i].numpy(), crop if draws[i, 2] < 0.5 else crop[:, :, ::-1])


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(InputError, match=r"batch_size: 11 is more than the 10 training images"):
        Batches(numbered(10), 11, shuffle=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 256, (20 + 4 * i, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def test_a_folder_in_memory(tree: Path) -> None:
    data = image_folder(tree, "train", 16)
    assert data.images.shape == (6, 3, 16, 16)
    assert data.classes == ["cat", "dog"]
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    plain = read_image(tree / "train" / "cat" / "0.png", 20)
    original = Image.open(tree / "train" / "cat" / "0.png")
    assert np.array_equal(np.array(plain), np.array(original)[:, 5:25])


def test_a_folder_from_disk_gives_the_same_whoever_asks(tree: Path) -> None:
    images = FolderImages(tree, "train", 16, seed=1, epoch=3, augment=True)
    alone = [(x, y) for x, y in images.batches(4)]
    assert [len(y) for _, y in alone] == [4]
    for rank in range(2):
        for (x, y), (part, label) in zip(alone, images.batches(4, rank, 2, workers=1), strict=True):
            assert torch.equal(x[rank::2], part)
            assert torch.equal(y[rank::2], label)
    assert sum(len(y) for _, y in FolderImages(tree, "val", 16).batches(4)) == 6


def test_images_are_decoded_as_those_of_a_dissection_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (8, 12), dtype=np.uint8)
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "16.png")
    assert np.array_equal(np.array(read_image(tmp_path / "16.png")), np.stack([values] * 3, -1))
    upright = np.repeat(np.repeat(rng.integers(0, 256, (2, 3, 3), dtype=np.uint8), 8, 0), 8, 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright)).save(tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    assert np.abs(np.array(read_image(tmp_path / "turned.jpg")).astype(int) - upright).max() < 8
    palette = Image.fromarray(upright).quantize(6)
    palette.save(tmp_path / "p.png", transparency=bytes([0, 255, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(np.array(read_image(tmp_path / "p.png")), np.array(palette.convert("RGB")))
    Image.new("F", (8, 8)).save(tmp_path / "f.tiff")
    with pytest.raises(InputError, match=r"f\.tiff: mode is F"):
        read_image(tmp_path / "f.tiff")


def test_a_bomb_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"large\.png: cannot be read as an image"):
        read_image(tmp_path / "large.png")


def test_the_middle_is_seven_eighths_and_what_has_the_size_stays_whole(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(np.array(read_image(tmp_path / "a.png", 14, center_crop=True)), pixels[1:15, 5:19])
    Image.fromarray(pixels[:, :16]).save(tmp_path / "b.png")
    for center_crop in (False, True):
        assert np.array_equal(np.array(read_image(tmp_path / "b.png", 16, center_crop)), pixels[:, :16])


def test_gifs_count_and_hidden_folders_do_not(tree: Path) -> None:
    (tree / "train" / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (30, 30)).save(tree / "train" / "cat" / "9.GIF", format="gif")
    data = image_folder(tree, "train", 8)
    assert (data.classes, data.labels.tolist()) == (["cat", "dog"], [0, 0, 0, 0, 1, 1, 1])
    for name in ("cat", "dog"):
        shutil.rmtree(tree / "train" / name)
    with pytest.raises(InputError, match="no images in class folders"):
        image_folder(tree, "train", 8)


@given(count=st.integers(0, 5000), most=st.integers(1, 1000))
def test_images_that_stand_for_all_are_spread_over_all(count: int, most: int) -> None:
    places = evenly_spaced(count, most)
    assert len(places) == min(count, most)
    # The end counts as the place after the last: no stretch of the data is longer than its neighbours by more than one.
    gaps = {after - before for before, after in itertools.pairwise([*places, count])}
    assert not gaps or (places[0] == 0 and max(gaps) - min(gaps) <= 1)


def test_some_images_of_either_kind(tree: Path) -> None:
    whole, from_disk = image_folder(tree, "train", 16), FolderImages(tree, "train", 16)
    for data, every in ((whole, whole.images), (from_disk, torch.stack([image for image, _ in from_disk]))):
        images, labels = data.take(range(1, 6, 2))
        assert torch.equal(images, every[1::2])
        assert labels.tolist() == [0, 1, 1]


def test_a_process_without_an_image_has_an_empty_batch(tree: Path) -> None:
    shapes = [tuple(x.shape) for x, _ in FolderImages(tree, "train", 16).batches(5, rank=1, world=2)]
    assert shapes == [(2, 3, 16, 16), (0, 3, 16, 16)]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named_from_every_process(tree: Path, workers: int) -> None:
    broken = tree / "train" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(InputError) as raised:
        list(FolderImages(tree, "train", 16).batches(2, workers=workers))
    assert str(raised.value).startswith(f"{broken}: cannot be read as an image")
    assert "\n" not in str(raised.value)


def test_bad_folders(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        image_folder(tmp_path / "nowhere", "train", 8)
    (tmp_path / "empty" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match="no images in class folders"):
        image_folder(tmp_path / "empty", "train", 8)
    (tmp_path / "one" / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "train" / "cat" / "0.png")
    with pytest.raises(InputError, match="one class only"):
        image_folder(tmp_path / "one", "train", 8)
    broken = tree / "train" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(InputError, match=r"dog/1\.png: cannot be read as an image"):
        image_folder(tree, "train", 8)


def test_cifar10_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cifar-10-batches-py: missing or damaged"):
        cifar10(tmp_path, "train")


@pytest.mark.data
def test_cifar10_is_read_whole() -> None:
    val = cifar10(os.environ["DYNAMICK_DATA"], "val")
    assert val.images.shape == (10_000, 3, 32, 32)
    assert torch.bincount(val.labels).tolist() == [1000] * 10
    assert val.classes[3] == "cat"
