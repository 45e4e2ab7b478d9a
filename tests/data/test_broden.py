"""Broden's directory format: what is written is read again, and the real files are read and rewritten to the letter."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dynamick.data.broden import Broden, Label, Record, write
from dynamick.errors import InputError
from tests.data.broden_sets import LABELS, image, pixel_map, rows_of, small


def test_round_trip(tmp_path):
    data = Broden(small(tmp_path / "set"))
    assert (len(data), data.categories, data.map_size) == (2, ["object", "part", "scene"], (2, 3))
    assert list(data.labels) == sorted(LABELS)
    one, two = data[0], data[1]
    assert (one.name, two.name) == ("a/one.png", "two.png")
    assert one.image.dtype == torch.uint8
    assert torch.equal(one.image, torch.from_numpy(image().transpose(2, 0, 1).copy()))
    assert {name: maps.tolist() for name, maps in one.maps.items()} == {
        "object": [[[300, 0, 0], [300, 0, 0]], [[65535, 65535, 0], [300, 0, 0]]],
        "part": [[[0, 0, 1], [0, 0, 0]]],
        "scene": [[[7]]],
    }
    assert {name: maps.tolist() for name, maps in two.maps.items()} == {"scene": [[[7]]]}
    assert all(maps.dtype == torch.int32 for maps in one.maps.values())


def test_files_are_as_broden_has_them(tmp_path):
    """Columns, cells, counts and colours, worked out by hand."""
    root = small(tmp_path)
    assert rows_of(root / "index.csv") == [
        ["image", "split", "ih", "iw", "sh", "sw", "object", "part", "scene"],
        ["a/one.png", "train", "6", "4", "2", "3", "a/one_object.png;a/one_object_1.png", "a/one_part.png", "7"],
        ["two.png", "val", "8", "8", "2", "3", "", "", "7"],
    ]
    assert rows_of(root / "label.csv") == [
        ["number", "name", "category", "frequency", "coverage", "syns"],
        ["1", "wheel", "part(1)", "1", "0.166667", ""],
        ["7", "street", "scene(2)", "2", "2.000000", ""],
        ["300", "car", "object(1)", "1", "0.333333", ""],
        ["65535", "last", "object(1)", "1", "0.333333", ""],
    ]
    assert rows_of(root / "category.csv") == [
        ["name", "first", "last", "count", "frequency"],
        ["object", "300", "65535", "2", "2"],
        ["part", "1", "1", "1", "1"],
        ["scene", "7", "7", "1", "2"],
    ]
    assert rows_of(root / "c_scene.csv") == [
        ["code", "number", "name", "frequency", "coverage"],
        ["1", "7", "street", "2", "2.0"],
    ]
    colours = np.asarray(Image.open(root / "images" / "a" / "one_object_1.png"))
    assert colours[:, :, 0].tolist() == [[255, 255, 0], [44, 0, 0]]
    assert colours[:, :, 1].tolist() == [[255, 255, 0], [1, 0, 0]]
    assert not colours[:, :, 2].any()


def test_label_of_several_categories_belongs_to_that_of_largest_coverage(tmp_path):
    """Not to the one it is listed with, and not to the one with the most images."""
    few_but_large = Record("a", "train", image(), {"material": [1]})
    small_ones = [Record(name, "train", image(), {"object": [pixel_map([1, 0, 0, 0])]}) for name in "bcd"]
    write(tmp_path, [Label(1, "wood", "object")], [few_but_large, *small_ones])
    assert rows_of(tmp_path / "label.csv")[1][2] == "object(3);material(1)"
    assert Broden(tmp_path).labels == [Label(1, "wood", "material")]
    for codes in tmp_path.glob("c_*.csv"):
        codes.unlink()
    assert Broden(tmp_path).labels == [Label(1, "wood", "object")], "counts stand in where there is no coverage"


def test_unused_labels_stay_and_empty_maps_go(tmp_path):
    write(tmp_path, LABELS, [Record("a", "train", image(), {"part": [pixel_map([0, 0])], "scene": [7], "object": []})])
    data = Broden(tmp_path)
    assert list(data.labels) == sorted(LABELS)
    assert data[0].maps.keys() == {"scene"}
    assert rows_of(tmp_path / "index.csv")[1][6:] == ["", "", "7"]
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["a.png"]


def test_black_label_map_labels_nothing(tmp_path):
    small(tmp_path)
    Image.new("RGB", (3, 2)).save(tmp_path / "images" / "a" / "one_part.png")
    assert Broden(tmp_path)[0].maps.keys() == {"object", "scene"}


def test_whole_image_label_beside_a_map_fills_one(tmp_path):
    write(tmp_path, LABELS, [Record("a", "train", image(), {"object": [300, pixel_map([0, 65535])]})])
    assert Broden(tmp_path)[0].maps["object"].tolist() == [[[300, 300]], [[0, 65535]]]
    assert dict(row[1:5:3] for row in rows_of(tmp_path / "c_object.csv")[1:]) == {"300": "1.0", "65535": "0.5"}


def test_palette_and_transparency_do_not_change_labels(tmp_path):
    small(tmp_path)
    path = tmp_path / "images" / "a" / "one_part.png"
    for mode in ("P", "RGBA"):
        Image.open(path).convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
        assert Image.open(path).mode == mode
        assert Broden(tmp_path)[0].maps["part"].tolist() == [[[0, 0, 1], [0, 0, 0]]], mode


def test_splits(tmp_path):
    small(tmp_path)
    assert [sample.name for sample in (Broden(tmp_path, "train")[0], Broden(tmp_path, "val")[0])] == ["a/one.png", "two.png"]
    with pytest.raises(InputError, match=r"index.csv: no split 'test'; there are train, val"):
        Broden(tmp_path, "test")


def test_index_out_of_range_and_pickling(tmp_path):
    data = Broden(small(tmp_path))
    with pytest.raises(IndexError):
        data[2]
    assert torch.equal(pickle.loads(pickle.dumps(data))[-1].image, data[1].image)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_maps_come_back(tmp_path_factory, data):
    """Any number of maps a category, of any size and any labels."""
    root = tmp_path_factory.mktemp("set")
    size = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    numbers = data.draw(st.lists(st.integers(1, 65535), min_size=1, max_size=4, unique=True))
    labels = [Label(number, f"n{number}", "object") for number in numbers]
    choices = np.array([0, *numbers])
    entry = st.one_of(
        st.sampled_from(numbers),
        st.integers(0, 99).map(lambda seed: choices[np.random.default_rng(seed).integers(0, len(choices), size)]),
    )
    maps = data.draw(st.dictionaries(st.sampled_from(["object", "part", "color"]), st.lists(entry, min_size=1, max_size=3)))
    write(root, labels, [Record("x", "val", image(), maps), Record("y", "val", image(), {"object": [numbers[0]]})])
    read = Broden(root)[0].maps
    for category in ("object", "part", "color"):
        entries = [np.asarray(each) for each in maps.get(category, []) if np.any(each)]
        full = np.broadcast_shapes((1, 1), *(each.shape for each in entries))
        expected = [np.broadcast_to(each, full).tolist() for each in entries]
        assert (read[category].tolist() if category in read else []) == expected


def test_data_set_is_not_overwritten(tmp_path):
    small(tmp_path)
    with pytest.raises(InputError, match="already holds a data set"):
        small(tmp_path)


def test_interrupted_writing_leaves_no_index_and_can_be_repeated(tmp_path):
    def broken():
        yield Record("a", "train", image(), {"scene": [7]})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, LABELS, broken())
    assert not list(tmp_path.glob("*.csv"))
    assert len(Broden(small(tmp_path))) == 2


@pytest.fixture(scope="module")
def minibroden():
    return Path(os.environ["DYNAMICK_DATA"]) / "minibroden"


@pytest.mark.data
def test_real_set_is_read(minibroden):
    """Counts from its README and its files; a label map decoded by hand."""
    data = Broden(minibroden)
    assert (len(data), data.map_size) == (6068, (64, 64))
    assert data.categories == ["object", "part", "scene", "texture"]
    assert len(Broden(minibroden, "train")) == 4263
    numbers = [row[0] for row in rows_of(minibroden / "label.csv")[1:]]
    assert [str(label.number) for label in data.labels] == numbers
    # bag: part(441);object(49)
    assert data.labels[17] == Label(18, "bag", "part")
    sample = data[0]
    colours = np.asarray(Image.open(minibroden / "images" / "miniplaces" / "train_b_bedroom_00000055_object.png"), np.int64)
    assert np.array_equal(sample.maps["object"].numpy(), (colours @ [1, 256, 0])[None])
    assert sample.maps["scene"].tolist() == [[[25]]]
    assert sample.image.shape == (3, 128, 128)


@pytest.mark.data
@pytest.mark.slow
def test_real_set_is_rewritten_to_the_letter(minibroden, tmp_path):
    """Reading every label map and writing it counts the same frequencies and coverages as Broden's own files have."""
    data = Broden(minibroden)
    pixel = np.zeros((1, 1, 3), np.uint8)

    def records():
        for i in range(len(data)):
            sample = data[i]
            maps = {
                name: [each.numpy() if each.numel() > 1 else int(each) for each in maps] for name, maps in sample.maps.items()
            }
            yield Record(str(i), "train", pixel, maps)

    write(tmp_path, data.labels, records())
    for name in ("label.csv", "category.csv"):
        assert (tmp_path / name).read_bytes() == (minibroden / name).read_bytes()
    for category in data.categories:
        ours, theirs = (rows_of(root / f"c_{category}.csv") for root in (tmp_path, minibroden))
        assert [row[0] for row in ours] == [row[0] for row in theirs]
        assert sorted(row[1:] for row in ours) == sorted(row[1:] for row in theirs)
        assert [row[3] for row in ours] == [row[3] for row in theirs], "the most frequent comes first"
    ours, theirs = (rows_of(root / "index.csv") for root in (tmp_path, minibroden))
    assert ours[0] == theirs[0]
    assert len(ours) == len(theirs)
