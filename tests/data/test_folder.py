"""People's own concepts: images beside one mask per concept."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dynamick.data.concepts import Label
from dynamick.data.folder import ConceptFolder
from dynamick.errors import InputError


def put(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(pixels, np.uint8))
    (picture.convert(mode) if mode else picture).save(path)


def folder(root):
    """Two images of 2 x 4 and 4 x 4; the second has one mask."""
    colours = np.random.default_rng(0).integers(0, 256, (2, 4, 3), np.uint8)
    put(root / "images" / "one.png", colours)
    put(root / "images" / "more" / "two.JPG", np.zeros((4, 4, 3)))
    put(root / "masks" / "dog" / "one.png", [[255, 0, 0, 0], [0, 0, 0, 0]])
    put(root / "masks" / "cat" / "one.png", [[9, 9, 0, 0], [0, 0, 0, 1]])
    put(root / "masks" / "dog" / "more" / "two.png", np.ones((4, 4)))
    return colours


def test_masks_become_maps(tmp_path):
    colours = folder(tmp_path)
    data = ConceptFolder(tmp_path, (2, 4))
    assert (len(data), data.categories, data.map_size) == (2, ["concept"], (2, 4))
    assert data.labels == [Label(1, "cat", "concept"), Label(2, "dog", "concept")]
    two, one = data[0], data[1]
    assert (two.name, one.name) == ("more/two.JPG", "one.png")
    assert torch.equal(one.image, torch.from_numpy(colours.transpose(2, 0, 1).copy()))
    assert one.maps["concept"].dtype == torch.int32
    assert one.maps["concept"].tolist() == [[[1, 1, 0, 0], [0, 0, 0, 1]], [[2, 0, 0, 0], [0, 0, 0, 0]]]
    assert two.maps["concept"].tolist() == [[[2] * 4] * 2], "the mask is resized; the other concept is lacking"


def test_image_without_masks_and_black_mask(tmp_path):
    folder(tmp_path)
    put(tmp_path / "images" / "three.png", np.zeros((2, 2, 3)))
    put(tmp_path / "masks" / "dog" / "more" / "two.png", np.zeros((4, 4)))
    data = ConceptFolder(tmp_path, (2, 2))
    assert [data[i].maps.keys() for i in range(3)] == [set(), {"concept"}, set()]


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), scale=st.integers(1, 4), seed=st.integers(0, 99))
def test_masks_are_resized_to_whole_pixels(tmp_path_factory, height, width, scale, seed):
    """Enlarged by a whole factor, every pixel of a mask becomes a square."""
    root = tmp_path_factory.mktemp("set")
    mask = np.random.default_rng(seed).integers(0, 2, (height, width))
    mask[0, 0] = 1
    put(root / "images" / "a.png", np.zeros((height, width, 3)))
    put(root / "masks" / "x" / "a.png", mask)
    read = ConceptFolder(root, (scale * height, scale * width))[0].maps["concept"]
    assert np.array_equal(read[0].numpy(), np.kron(mask, np.ones((scale, scale), int)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_masks_of_any_mode(tmp_path, mode):
    folder(tmp_path)
    path = tmp_path / "masks" / "dog" / "one.png"
    picture = Image.fromarray(np.array([[255, 0, 0, 0], [0, 0, 255, 0]], np.uint8))
    if mode == "I;16":
        Image.fromarray(np.array([[256, 0, 0, 0], [0, 0, 300, 0]], np.uint16)).save(path)
    else:
        picture.convert(mode).save(path)
    assert Image.open(path).mode == mode
    assert ConceptFolder(tmp_path, (2, 4))[1].maps["concept"][1].tolist() == [[2, 0, 0, 0], [0, 0, 2, 0]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_as_their_exif_says(tmp_path, orientation):
    """A bright corner of a large JPEG, where it is seen: EXIF's 8 orientations, from its standard."""
    stored = np.zeros((48, 32, 3), np.uint8)
    stored[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "images").mkdir()
    Image.fromarray(stored).save(tmp_path / "images" / "a.jpg", exif=exif, quality=100)
    seen = (32, 48) if orientation > 4 else (48, 32)
    put(tmp_path / "masks" / "corner" / "a.png", np.ones(seen))
    data = ConceptFolder(tmp_path, seen)
    assert data.maps(0)["concept"].shape[1:] == seen
    image = data.image(0)[0].numpy() > 127
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[orientation]
    assert image.shape == seen
    assert image[corner]
    assert image.sum() == 256


def test_images_of_16_bits_keep_their_upper_8(tmp_path):
    folder(tmp_path)
    values = np.array([[0, 255, 256, 65535], [511, 512, 32768, 4096]], np.uint16)
    Image.fromarray(values).save(tmp_path / "images" / "one.png")
    assert np.array_equal(ConceptFolder(tmp_path, (2, 4)).image(1).numpy(), np.stack([values // 256] * 3))


def test_images_without_a_range_are_refused(tmp_path):
    folder(tmp_path)
    Image.fromarray(np.ones((2, 4), np.float32)).save(tmp_path / "images" / "one.png", format="TIFF")
    with pytest.raises(InputError, match=r"one\.png: mode is F"):
        ConceptFolder(tmp_path).image(1)


BROKEN = {
    "no masks folder": (lambda root: (root / "masks").rename(root / "mask"), "masks: no such folder"),
    "no images folder": (lambda root: (root / "images").rename(root / "image"), "images: no such folder"),
    "mask without image": (lambda root: put(root / "masks" / "dog" / "x.png", [[1]]), r"x.png: no image images/x\.\*"),
    "mask is no PNG": (lambda root: put(root / "masks" / "dog" / "one.jpg", [[1]]), "one.jpg: not a PNG"),
    "one name for two": (lambda root: put(root / "images" / "one.jpg", [[1]]), "one.png: one.jpg differs by its ending alone"),
    "empty concept": (lambda root: (root / "masks" / "bird").mkdir(), "bird: no masks"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folder(tmp_path, name):
    folder(tmp_path)
    breaks, message = BROKEN[name]
    breaks(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        ConceptFolder(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_utf_8_is_named(tmp_path):
    folder(tmp_path)
    (tmp_path / "masks" / "dog").rename(os.fsdecode(os.fsencode(tmp_path / "masks") + b"/caf\xe9"))
    with pytest.raises(InputError, match=r"'caf\\udce9' is no name in UTF-8"):
        ConceptFolder(tmp_path)


def test_no_images_and_no_masks(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match=r"images: no images; .* \(the first of 2 problems\)"):
        ConceptFolder(tmp_path)


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    folder(tmp_path)
    put(tmp_path / "images" / ".thumbnails" / "one.png", [[1]])
    (tmp_path / "images" / "holiday.png").mkdir()
    put(tmp_path / "images" / ".thumb.png", [[1]])
    (tmp_path / "masks" / ".cache").mkdir()
    assert len(ConceptFolder(tmp_path)) == 2


def test_broken_files(tmp_path):
    folder(tmp_path)
    data = ConceptFolder(tmp_path)
    put(tmp_path / "masks" / "cat" / "one.png", [[1, 1]])
    with pytest.raises(InputError, match=r"cat/one.png: its size is 1 x 2; its image's is 2 x 4"):
        data[1]
    (tmp_path / "images" / "one.png").write_text("x")
    with pytest.raises(InputError, match=r"images/one.png: cannot be read as an image"):
        data[1]


def test_bad_map_size(tmp_path):
    folder(tmp_path)
    with pytest.raises(InputError, match="map_size"):
        ConceptFolder(tmp_path, (0, 4))
