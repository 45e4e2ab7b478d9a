"""What is wrong in a data set of Broden's format is named in one line, whatever it is."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dynamick.data.broden import Broden, Label, Record, write
from dynamick.data.checking import check
from dynamick.errors import InputError
from tests.data.broden_sets import LABELS, edit, image, pixel_map, small

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
    "a file elsewhere": (
        lambda root: edit(root / "index.csv", "two.png", "../label.csv"),
        r"index.csv: line 3 names \.\./label\.csv, which is outside of images/",
    ),
    "a map elsewhere": (
        lambda root: edit(root / "index.csv", "a/one_object.png", "/etc/passwd"),
        r"index.csv: line 2 names /etc/passwd, which is outside of images/",
    ),
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
