"""The check of a data directory: all that is wrong, at once; nothing where all is well."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dynamick.data.broden import Broden, Label, Record, write
from dynamick.data.checking import check, open_concepts
from dynamick.data.folder import ConceptFolder
from dynamick.errors import InputError

LABELS = [Label(1, "wheel", "part"), Label(2, "car", "object"), Label(3, "street", "scene")]


@pytest.fixture
def broden(tmp_path):
    """Six images a to f, each with a part, an object and a scene."""
    image = np.zeros((8, 8, 3), np.uint8)
    maps: dict[str, list[Any]] = {"part": [np.ones((4, 4), int)], "object": [2 * np.eye(4, dtype=int)], "scene": [3]}
    write(tmp_path, LABELS, [Record(name, "train", image, maps) for name in "abcdef"])
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        for path, mode in ((tmp_path / "images" / f"{name}.png", "RGB"), (tmp_path / "masks" / "dog" / f"{name}.png", "L")):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (4, 6), 1).save(path)
    return tmp_path


def test_nothing_wrong(broden):
    assert check(broden) == []


def test_everything_wrong_at_once(broden):
    """One problem of each kind, each found once and naming its file."""
    images = broden / "images"
    (images / "a.png").unlink()
    (images / "b.png").write_bytes((images / "b.png").read_bytes()[:40])
    Image.new("RGB", (8, 7)).save(images / "c.png")
    (images / "a_part.png").unlink()
    (images / "b_part.png").write_text("no image")
    Image.new("RGB", (4, 3), (1, 0, 0)).save(images / "c_part.png")
    Image.new("RGB", (4, 4), (9, 0, 0)).save(images / "d_part.png")
    Image.new("RGB", (4, 4), (2, 0, 0)).save(images / "e_part.png")
    Image.new("L", (4, 4)).save(images / "f_part.png")
    (broden / "c_scene.csv").unlink()
    index = broden / "index.csv"
    index.write_text(index.read_text().replace("f_object.png,f_part.png,3", "f_object.png,f_part.png,4"))
    expected = [
        ("c_scene.csv", "no such file"),
        ("a.png", "no such file"),
        ("a_part.png", "no such file"),
        ("b.png", "cannot be read"),
        ("b_part.png", "cannot be read"),
        ("c.png", "its size is 7 x 8; index.csv says 8 x 8"),
        ("c_part.png", "its size is 3 x 4; index.csv says 4 x 4"),
        ("d_part.png", "part label 9 is not in label.csv; it has numbers from 1 to 3"),
        ("e_part.png", "part label 2 is of category object"),
        ("f_part.png", "mode is L"),
        ("f.png", "scene label 4 is not in label.csv"),
    ]
    problems = check(broden)
    assert len(problems) == len(expected)
    for file, what in expected:
        assert [problem for problem in problems if f"{file}: " in problem and what in problem], (file, what)
    assert not any("\n" in problem for problem in problems)


def test_tables_and_files_are_checked_together(broden):
    """A wrong table does not hide what is wrong with the files."""
    labels = broden / "label.csv"
    labels.write_text(labels.read_text().replace("3,street", "0.5,street"))
    (broden / "images" / "a.png").unlink()
    problems = check(broden)
    assert any("label '0.5' (street)" in problem for problem in problems)
    assert any("a.png: no such file" in problem for problem in problems)


@pytest.mark.parametrize("name", ["index.csv", "label.csv", "category.csv"])
def test_missing_table(broden, name):
    (broden / name).unlink()
    problems = check(broden)
    assert [problem for problem in problems if f"{name}: no such file" in problem]
    assert len(problems) == 1


def test_no_labels(broden):
    """Label maps that are 0 everywhere label nothing, whatever the tables say."""
    index = broden / "index.csv"
    index.write_text(index.read_text().replace(",3\n", ",\n").replace(",3\r\n", ",\r\n"))
    for path in (broden / "images").glob("*_*.png"):
        Image.new("RGB", (4, 4)).save(path)
    assert [problem.split(": ", 1)[1][:19] for problem in check(broden)] == ["nothing is labelled"]


def test_folder_is_checked(folder):
    assert check(folder) == []
    (folder / "images" / "a.png").write_text("no image")
    (folder / "masks" / "dog" / "b.png").write_text("no image")
    Image.new("L", (5, 6)).save(folder / "masks" / "dog" / "c.png")
    Image.new("L", (5, 6)).save(folder / "masks" / "dog" / "d.png")
    problems = check(folder)
    assert [problem.removeprefix(f"{folder}/").split(": ")[0] for problem in problems] == [
        "masks/dog/d.png",
        "images/a.png",
        "masks/dog/b.png",
        "masks/dog/c.png",
    ]


def test_folder_of_black_masks(folder):
    for path in (folder / "masks" / "dog").iterdir():
        Image.new("L", (4, 6)).save(path)
    assert [problem.split(": ", 1)[1][:9] for problem in check(folder)] == ["no labels"]


def test_neither_form(tmp_path):
    assert check(tmp_path) == [f"{tmp_path}: no data set; it must hold Broden's index.csv, or images/ beside masks/"]
    with pytest.raises(InputError, match="no data set"):
        open_concepts(tmp_path)
    assert len(check(tmp_path / "nowhere")) == 1


def test_the_form_is_recognised(broden):
    assert isinstance(open_concepts(broden), Broden)


def test_the_folder_form_is_recognised(folder):
    assert isinstance(open_concepts(folder), ConceptFolder)


@pytest.mark.data
@pytest.mark.slow
def test_nothing_is_wrong_with_the_real_set():
    assert check(Path(os.environ["DYNAMICK_DATA"]) / "minibroden") == []
