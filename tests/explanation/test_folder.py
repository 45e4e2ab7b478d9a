"""Explaining a folder in one call: everything is written from one pass, whole or not at all."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import dynamick as dk
from dynamick.errors import InputError
from dynamick.explanation import Outputs, explain_folder
from dynamick.explanation.pages import title_of

EVERYTHING = {"out": "p.html", "json": "e.json", "pictures": "pictures", "study": "s.html", "three_way": "t.svg"}


def explained(place: Path, tmp_path: Path, **outputs: Any) -> Any:
    paths = {name: tmp_path / path for name, path in outputs.items()}
    return explain_folder(
        dk.open_network(place / "res8-d3a.safetensors"),
        place / "images",
        Outputs(**paths),
        units=place / "res8-d3a" / "dissection.json",
        concepts=place / "concepts",
        twin=dk.open_network(place / "res8.safetensors"),
    )


def test_all_is_written_and_returned(place: Path, tmp_path: Path) -> None:
    written = explained(place, tmp_path, **EVERYTHING, measure="m.json")
    names = ["e.json", "m.json", "p.html", "pictures", "s-answers.csv", "s.csv", "s.html", "t.svg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert len(list((tmp_path / "pictures").iterdir())) == 8
    read = json.loads((tmp_path / "e.json").read_text())
    assert [each["products"] for each in read] == [each.products for each in written.explanations]
    assert json.loads((tmp_path / "m.json").read_text())["faithfulness"]["images"] == 8
    assert written.page.beside.model.name == "res8"
    assert len(written.three_ways.images) == 8
    assert len(written.lines) == 6
    assert written.notes == []


def test_the_network_is_shown_each_image_once(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    forward = dk.models.ResNet.forward

    def counting(self: Any, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.fc, dk.DynamicLinear):
            shown.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(dk.models.ResNet, "forward", counting)
    network = dk.open_network(place / "res8-d3a.safetensors")
    outputs = Outputs(*(tmp_path / name for name in ("p.html", "e.json", "pictures")), study=tmp_path / "s.html")
    explain_folder(network, place / "images", outputs)
    assert sorted(shown) == [1, 8], "one image to find the maps, and all of them once"


def test_an_explanation_is_made_once(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dynamick.explanation import writing

    made: list[int] = []
    explanations_of = writing.explanations_of
    monkeypatch.setattr(writing, "explanations_of", lambda *a, **b: made.append(1) or explanations_of(*a, **b))
    explained(place, tmp_path, json="e.json", pictures="pictures", measure="m.json", study="s.html")
    assert made == [1]


@pytest.mark.parametrize("name", sorted(EVERYTHING))
def test_without_room_what_was_there_stays(name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / EVERYTHING[name]
    if name == "pictures":
        target.mkdir()
        target = target / "0.png"
    target.write_text("whole")

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        explained(place, tmp_path, **{name: EVERYTHING[name]})
    assert caught.value.filename == str(target)
    assert target.read_text() == "whole"
    assert not [path.name for path in tmp_path.rglob(".*")]


def test_what_a_dead_process_left_is_taken_away(place: Path, tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "pictures").mkdir()
    names = [".p.html", ".e.json", ".s-answers.csv", "pictures/.3.png"]
    for name in names:
        (tmp_path / f"{name}.{ended.pid}-7").write_text("part")
    explained(place, tmp_path, **EVERYTHING)
    assert not [path.name for path in tmp_path.rglob(".*")]


def test_the_same_twice_at_once(place: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dynamick.cli", "explain", "--weights", "res8-d3a.safetensors", "--images", "images"]
    command += ["--json", str(tmp_path / "e.json"), "--pictures", str(tmp_path / "pictures")]
    two = [subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [each.communicate()[1] for each in two]
    assert [each.returncode for each in two] == [0, 0], said
    assert len(json.loads((tmp_path / "e.json").read_text())) == 8
    assert all(Image.open(path).size for path in (tmp_path / "pictures").iterdir())


@pytest.mark.parametrize(("outputs", "said"), [
    ({"out": "x" * 300 + ".html"}, "cannot be written"),
    ({"out": "missing/p.html"}, "its folder does not exist"),
    ({}, "nothing to write"),
])  # fmt: skip
def test_places_that_cannot_be_are_refused_first(outputs: dict[str, str], said: str, place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as caught:
        explained(place, tmp_path, **outputs)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_first(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere, so this is how the system answers others.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="cannot be written"):
        explained(place, tmp_path, out="p.html")


def test_a_heading_says_how_often_it_is_right_only_of_images_whose_classes_are_known() -> None:
    seen: Any = SimpleNamespace(batches=[SimpleNamespace(logits=torch.eye(3))])
    assert title_of("photos", seen, [None, None, None]) == "Decisions on photos"
    assert title_of("places", seen, [0, 2, None]) == "places, 1 of 2 right"
