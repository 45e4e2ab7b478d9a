"""Every text file that people edit is read the same, however their editor saves it; what cannot be known is one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamick.data import ComposedScenes
from dynamick.data.broden import Broden
from dynamick.dissection import Dissection
from dynamick.errors import InputError
from dynamick.networks.classes import read_names
from dynamick.training import Recipe
from dynamick.training.callbacks import read_history

Again = Callable[[bytes], bytes]
AS_EDITORS_SAVE: dict[str, Again] = {
    "with a mark": lambda content: b"\xef\xbb\xbf" + content,
    "as UTF-16": lambda content: content.decode().encode("utf-16"),
    "with carriage returns": lambda content: content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
    "with empty lines at the end": lambda content: content + b"\n\n",
}


def saved(file: Path, again: Again) -> None:
    file.write_bytes(again(file.read_bytes()))


def classes(folder: Path) -> tuple[Path, Callable[[], Any]]:
    (folder / "classes.txt").write_text("Käse\nto be\n", encoding="utf-8")
    return folder / "classes.txt", lambda: read_names(folder / "classes.txt")


def recipe(folder: Path) -> tuple[Path, Callable[[], Any]]:
    (folder / "recipe.yaml").write_text("model: res8-d3a\ndata:\n  kind: scenes\n  root: Käse\n", encoding="utf-8")
    return folder / "recipe.yaml", lambda: Recipe.read(folder / "recipe.yaml")


def tally(folder: Path) -> tuple[Path, Callable[[], Any]]:
    header = "unit,category,label,score,object-label,object-truth,object-activation,object-intersect,object-iou"
    (folder / "tally.csv").write_text(f"{header}\n1,object,Käse,0.5,Käse,4,4,2,0.5\n", encoding="utf-8")
    return folder / "tally.csv", lambda: Dissection.read_tally(folder / "tally.csv").rows


def metrics(folder: Path) -> tuple[Path, Callable[[], Any]]:
    (folder / "metrics.csv").write_text("epoch,top1,loss\n1,50.0,0.5\n", encoding="utf-8")
    return folder / "metrics.csv", lambda: read_history(folder)


def table(folder: Path, name: str) -> tuple[Path, Callable[[], Any]]:
    ComposedScenes("val", 2).write_broden(folder / "set")
    data = folder / "set"
    return data / name, lambda: (Broden(data).labels, Broden(data).fingerprint()[:0], [Broden(data).name(i) for i in range(2)])


def index(folder: Path) -> tuple[Path, Callable[[], Any]]:
    return table(folder, "index.csv")


def label(folder: Path) -> tuple[Path, Callable[[], Any]]:
    return table(folder, "label.csv")


def category(folder: Path) -> tuple[Path, Callable[[], Any]]:
    return table(folder, "category.csv")


@pytest.mark.parametrize("how", AS_EDITORS_SAVE)
@pytest.mark.parametrize("made", [classes, recipe, tally, metrics, index, label, category])
def test_a_file_is_the_same_as_every_editor_saves_it(made: Any, how: str, tmp_path: Path) -> None:
    file, read = made(tmp_path)
    before = read()
    saved(file, AS_EDITORS_SAVE[how])
    assert read() == before


@pytest.mark.parametrize("made", [classes, recipe, tally])
def test_letters_of_another_encoding_are_one_line(made: Any, tmp_path: Path) -> None:
    file, read = made(tmp_path)
    saved(file, lambda content: content.decode().encode("latin-1"))
    with pytest.raises(InputError) as raised:
        read()
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_spaces_at_the_ends_of_names_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a \n  b\t\n\n", encoding="utf-8")
    assert read_names(tmp_path / "classes.txt") == ["a", "b"]
    file, read = index(tmp_path)
    before = read()
    lines = [line.split(",") for line in file.read_text().splitlines()]
    file.write_text("\n".join(" , ".join(line) + " " for line in lines))
    assert read() == before
    assert np.array_equal(Broden(file.parent).image(0), ComposedScenes("val", 2).images[0])
