"""Some images of a folder, and the classes that their folders name."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from dynamick.data.class_folders import FolderImages
from dynamick.data.pictures import class_of, read_pictures
from dynamick.errors import InputError


def image(path: Path, size: tuple[int, int] = (10, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def test_what_cannot_be_read_is_left_out_by_name(tmp_path: Path) -> None:
    for number in range(3):
        image(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    read = read_pictures(tmp_path, 9)
    assert read.names == ["0.png", "2.png"]
    assert tuple(read.images.shape) == (2, 3, 8, 8)
    assert read.images.dtype == torch.uint8
    assert [line.split(": ")[0] for line in read.refused] == [str(tmp_path / "1.png")]
    for path in tmp_path.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"no readable image .*; the first: .*0\.png: cannot be read"):
        read_pictures(tmp_path, 9)


def test_one_image_and_images_spread_over_all(tmp_path: Path) -> None:
    for number in range(10):
        image(tmp_path / f"{number}.png")
    assert read_pictures(tmp_path / "3.png", 5).names == ["3.png"]
    assert read_pictures(tmp_path, 5, 16).names == ["0.png", "2.png", "4.png", "6.png", "8.png"]
    for limit, place, said in ((0, tmp_path, "--limit: 0"), (1, tmp_path / "none", "no such folder")):
        with pytest.raises(InputError, match=said):
            read_pictures(place, limit)


def test_images_have_the_classes_that_a_training_gives_them(tmp_path: Path) -> None:
    for name in ("a/0.png", "a/deep/1.png", "a/b/2.png", "b/3.png"):
        image(tmp_path / "val" / name)
    data = FolderImages(tmp_path, "val", 8)
    read = read_pictures(tmp_path / "val", 9)
    assert sorted(read.names) == sorted(data.names)
    known = dict(zip(data.names, data.labels.tolist(), strict=True))
    assert [class_of(file, tmp_path / "val", data.classes) for file in read.files] == [known[name] for name in read.names]
    (file,) = read_pictures(tmp_path / "val" / "b", 9).files
    for root in (tmp_path, tmp_path / "val", tmp_path / "val" / "b", file):
        assert class_of(file, root, data.classes) == 1


def test_classes_of_one_name_are_no_mistakes() -> None:
    files = [Path(f"{name}/1.png") for name in ("crane", "cat", "dog")]
    assert [class_of(file, Path("images"), ["crane", "crane", "cat"]) for file in files] == [None, 2, None]
