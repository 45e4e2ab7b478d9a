"""Broden's directory format: what is written is read again, and the real files are read and rewritten to the letter."""

import contextlib
import csv
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
from dynamick.data.checking import check
from dynamick.errors import InputError

LABELS = [
    Label(1, "wheel", "part"),
    Label(300, "car", "object"),
    Label(65535, "last", "object"),
    Label(7, "street", "scene"),
]


def image(height=6, width=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pixel_map(*rows):
    return np.array(rows, np.uint16)


def small(root):
    """Two images: two object maps, a part map and a scene; then a scene alone."""
    objects = [pixel_map([300, 0, 0], [300, 0, 0]), pixel_map([65535, 65535, 0], [300, 0, 0])]
    first = Record("a/one", "train", image(), {"object": objects, "part": [pixel_map([0, 0, 1], [0, 0, 0])], "scene": [7]})
    write(root, LABELS, [first, Record("two", "val", image(8, 8, 1), {"scene": [7]})])
    return root


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


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


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


BROKEN = {
    "no index": (lambda root: (root / "index.csv").unlink(), r"index.csv: no such file"),
    "no labels": (lambda root: (root / "label.csv").unlink(), r"label.csv: no such file"),
    "no categories": (lambda root: (root / "category.csv").unlink(), r"category.csv: no such file"),
    "no rows": (
        lambda root: (root / "index.csv").write_text("image,split,ih,iw,sh,sw,object,part,scene\n"),
        r"index.csv: no rows",
    ),
    "column": (lambda root: edit(root / "index.csv", "scene", "scenery"), r"index.csv: no column scene"),
    "size": (lambda root: edit(root / "index.csv", "val,8", "val,8.5"), r"index.csv: line 3 needs .* integers"),
    "several sizes": (lambda root: edit(root / "index.csv", "8,8,2,3", "8,8,3,3"), r"index.csv: label maps .* 2 x 3, 3 x 3"),
    "twice": (lambda root: edit(root / "index.csv", "two.png", "a/one.png"), r"index.csv: image a/one.png is listed twice"),
    "number": (lambda root: edit(root / "label.csv", "7,street", "x,street"), r"label 'x' \(street\): a number must be"),
    "number twice": (lambda root: edit(root / "label.csv", "7,street", "1,street"), r"label '1' \(street\): .* listed twice"),
    "no category": (lambda root: edit(root / "label.csv", "scene(2)", ""), r"label '7' \(street\): no category"),
    "unknown category": (lambda root: edit(root / "label.csv", "scene(2)", "mood(2)"), r"label.csv: category mood is not in"),
    "coverage": (lambda root: edit(root / "c_scene.csv", "2.0", "much"), r"c_scene.csv: .* 'much'; both must be numbers"),
    "not text": (lambda root: (root / "label.csv").write_bytes(b"\xff\xfe\x00"), r"label.csv: cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_tables(tmp_path, name):
    breaks, message = BROKEN[name]
    breaks(small(tmp_path))
    with pytest.raises(InputError, match=message) as caught:
        Broden(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_category_that_no_image_has_and_spaces_in_lists(tmp_path):
    expected = Broden(small(tmp_path))[0].maps
    with (tmp_path / "category.csv").open("a") as file:
        file.write("mood,1,1,0,0\n")
    for path, more in ((tmp_path / "index.csv", ("mood", "")), (tmp_path / "c_mood.csv", ())):
        if more:
            lines = path.read_text().splitlines()
            path.write_text("\n".join([f"{lines[0]},{more[0]}", *(f"{line},{more[1]}" for line in lines[1:])]) + "\n")
        else:
            path.write_text("code,number,name,frequency,coverage\n")
    edit(tmp_path / "label.csv", "part(1)", "part(1); object(0)")
    assert check(tmp_path) == []
    found = Broden(tmp_path)[0].maps
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], maps) for name, maps in expected.items())


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["index", "label", "category", "c_scene"])
def test_empty_tables_are_named(tmp_path, name, content):
    (small(tmp_path) / f"{name}.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}\.csv: no column [^\n]+$"):
        Broden(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        Broden(tmp_path / "nowhere")


def test_nothing_labelled(tmp_path):
    write(tmp_path, LABELS, [Record("a", "train", image(), {})])
    with pytest.raises(InputError, match=r"index.csv: nothing is labelled"):
        Broden(tmp_path)


@pytest.mark.parametrize("number", [2, 65534, 65536, 65537 + 7, 999_999_999])
def test_unknown_whole_image_label(tmp_path, number):
    edit(small(tmp_path) / "index.csv", "one_part.png,7", f"one_part.png,{number}")
    with pytest.raises(InputError, match=rf"a/one.png: labelled with {number}, which label.csv does not list"):
        Broden(tmp_path)[0]


def test_tables_saved_by_a_spreadsheet(tmp_path):
    """With a byte order mark and spaces after the separator of a cell."""
    expected = Broden(small(tmp_path))[0].maps["object"]
    edit(tmp_path / "index.csv", ";", "; ")
    for path in tmp_path.glob("*.csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert torch.equal(Broden(tmp_path)[0].maps["object"], expected)


BROKEN_FILES = {
    "missing": (lambda path: path.unlink(), "no such file"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-30]), "cannot be read as an image"),
    "no image": (lambda path: path.write_text("hello"), "cannot be read as an image .no known image format"),
    "size": (lambda path: Image.new("RGB", (2, 3)).save(path), r"its size is 3 x 2; index.csv says 2 x 3"),
    "gray": (lambda path: Image.new("L", (3, 2)).save(path), r"mode is L; .* must be an RGB image"),
    "number": (
        lambda path: Image.new("RGB", (3, 2), (5, 1, 0)).save(path),
        r"labelled with 261, which label.csv does not list",
    ),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_broken_label_map(tmp_path, name):
    breaks, message = BROKEN_FILES[name]
    breaks(small(tmp_path) / "images" / "a" / "one_part.png")
    data = Broden(tmp_path)
    with pytest.raises(InputError, match=message):
        data[0]


@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), keep=st.floats(0, 1))
def test_any_damage_is_read_or_refused(tmp_path_factory, where, value, keep):
    """Whatever the bytes of a label map are, there is a sample or an InputError, no other failure."""
    root = small(tmp_path_factory.mktemp("set"))
    path = root / "images" / "a" / "one_object.png"
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] = value
    path.write_bytes(content[: int(keep * len(content))] if keep > 0.5 else content)
    with contextlib.suppress(InputError):
        assert Broden(root)[0].maps["object"].shape[1:] == (2, 3)


REFUSED = {
    "name twice": ([Record("a", "train", image(), {"scene": [7]})] * 2, "a.png: written already"),
    "name of a map": (
        [Record("a", "t", image(), {"part": [pixel_map([1])]}), Record("a_part", "t", image(), {})],
        "a_part.png: written already",
    ),
    "climbing name": ([Record("../a", "train", image(), {})], "record '../a': not a name"),
    "absolute name": ([Record("/a", "train", image(), {})], "record '/a': not a name"),
    "separator in name": ([Record("a;b", "train", image(), {})], "record 'a;b': not a name"),
    "no split": ([Record("a", "", image(), {})], "no split"),
    "float image": ([Record("a", "train", image().astype(float), {})], r"image is float64 .* must be uint8"),
    "gray image": ([Record("a", "train", image()[..., 0], {})], r"must be uint8, \(H, W, 3\)"),
    "unknown number": ([Record("a", "train", image(), {"part": [pixel_map([2])]})], "part label 2 is unknown"),
    "negative number": ([Record("a", "train", image(), {"scene": [-1]})], "scene label -1 is unknown"),
    "float map": ([Record("a", "train", image(), {"part": [np.ones((2, 2))]})], "part label is float64"),
    "map shape": ([Record("a", "train", image(), {"part": [np.ones(2, int)]})], r"part label is int64 of shape \(2,\)"),
    "map sizes": (
        [Record("a", "train", image(), {"part": [pixel_map([1]), pixel_map([1, 1])]})],
        r"part map is \(1, 2\); it must be \(1, 1\)",
    ),
    "category": ([Record("a", "train", image(), {"a;b": [7]})], "category 'a;b': must be one word"),
    "category like a column": ([Record("a", "train", image(), {"split": [7]})], "category 'split': must be one word"),
    "no records": ([], "no records to write"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_records(tmp_path, name):
    records, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        write(tmp_path / "set", LABELS, records)
    assert not (tmp_path / "set" / "index.csv").exists(), "an unfinished set must not look like a whole one"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "none, or a number given twice"),
        ([LABELS[0], LABELS[0]], "none, or a number given twice"),
        ([Label(0, "a", "part")], "numbers go from 1 to 65535"),
        ([Label(65536, "a", "part")], "numbers go from 1 to 65535"),
        ([Label(1, "a", "")], "category '': must be one word"),
    ],
)
def test_refused_labels(tmp_path, labels, message):
    with pytest.raises(InputError, match=message):
        write(tmp_path, labels, [Record("a", "train", image(), {})])


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
