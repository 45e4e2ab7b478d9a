"""Images and label maps of `Broden` and `ConceptFolder`, each read without the other."""

import numpy as np
import pytest
import torch
from PIL import Image

from dynamick.data import Broden, ComposedScenes, ConceptFolder, check, open_concepts
from dynamick.data.scenes import write_broden
from dynamick.errors import InputError


@pytest.fixture
def broden(tmp_path):
    train, val = (ComposedScenes(split, size, seed=1, image_size=32) for split, size in (("train", 4), ("val", 3)))
    write_broden(tmp_path / "broden", [train, val])
    return tmp_path / "broden"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "folder"
    for place in ("images", "masks/cup", "masks/lid"):
        (root / place).mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(root / f"images/{i}.png")
    mask = np.zeros((20, 30), np.uint8)
    mask[:10] = 255
    Image.fromarray(mask).save(root / "masks/cup/0.png")
    Image.fromarray(255 - mask).save(root / "masks/lid/0.png")
    Image.fromarray(mask).save(root / "masks/lid/1.png")
    return root


def test_the_parts_are_those_of_the_sample(broden, folder):
    for root in (broden, folder):
        data = open_concepts(root)
        for i in range(len(data)):
            sample, maps = data[i], data.maps(i)
            assert data.name(i) == sample.name
            assert torch.equal(data.image(i), sample.image)
            assert list(maps) == list(sample.maps)
            assert all(torch.equal(maps[name], sample.maps[name]) for name in maps)


def test_each_part_needs_its_own_files_only(broden, folder):
    for data in (Broden(broden), ConceptFolder(folder)):
        path = data.root / "images" / data.name(0)
        path.write_bytes(path.read_bytes()[:45])  # the header alone
        assert data.maps(0)
        with pytest.raises(InputError, match=path.name):
            data.image(0)
    data = ConceptFolder(folder)
    (folder / "masks/lid/1.png").write_text("no picture")
    assert data.image(1).shape == (3, 20, 30)
    with pytest.raises(InputError, match=r"lid/1\.png: cannot be read"):
        data.maps(1)


def test_masks_of_another_size_are_named(folder):
    Image.fromarray(np.ones((20, 31), np.uint8)).save(folder / "masks/lid/1.png")
    with pytest.raises(InputError, match=r"lid/1\.png: its size is 20 x 31; its image's is 20 x 30"):
        ConceptFolder(folder).maps(1)


def test_several_splits_lie_in_one_directory(broden, tmp_path):
    assert check(broden) == []
    assert [len(Broden(broden, split)) for split in ("train", "val", None)] == [4, 3, 7]
    scenes = ComposedScenes("val", 3, seed=1, image_size=32)
    assert torch.equal(torch.stack([Broden(broden, "val").image(i) for i in range(3)]), scenes.images)
    with pytest.raises(InputError, match="each split once"):
        write_broden(tmp_path / "twice", [scenes, scenes])
