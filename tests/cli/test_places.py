"""Every command that writes: a place that cannot be is told in one line with status 2, before any work is done."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import dynamick as dk
from dynamick import models
from dynamick.cli.main import main
from dynamick.data.scenes import ComposedScenes

CLASSES = ["dark", "light"]
OUT = {"explain": "page.html"}
"""What a command writes, if it is no folder."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two classes, a folder of their images, and concepts."""
    place = tmp_path_factory.mktemp("given")
    for split in ("train", "val"):
        for value, name in ((50, "dark"), (200, "light")):
            (place / "images" / split / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (16, 16), (value + number,) * 3).save(place / "images" / split / name / f"{number}.png")
    ComposedScenes("val", 6, 0, 32).write_broden(place / "concepts")
    torch.manual_seed(0)
    dk.save(models.create("res8-d1a", 2, "patch", 2, dk.Preprocessing(16), classes=CLASSES), place / "net.safetensors")
    return place


def commands(given: Path) -> dict[str, list[str]]:
    images, weights, concepts = (str(given / name) for name in ("images", "net.safetensors", "concepts"))
    network = ["--model", "res8-d1a", "--weights", weights]
    return {
        "compare": ["--weights", weights, "--data", "folder", "--root", images, "--heads", "dense"],
        "retrofit": [*network, "--data", images],
        "dissect": [*network, "--layer", "layer3", "--data", concepts],
        "explain": ["--weights", weights, "--images", f"{images}/val"],
        "train": ["scenes-small"],
        "reproduce": ["table1"],
        "demo": [],
    }


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(place)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def refused(command: str, given: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main([command, *commands(given)[command], "--out", str(out / OUT.get(command, ""))])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


NAMES = ["compare", "retrofit", "dissect", "explain", "train", "reproduce", "demo"]


@pytest.mark.parametrize("command", NAMES)
def test_a_name_that_is_too_long(command: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(command, given, tmp_path / ("x" * 300), capsys)
    assert "x" * 300 in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", NAMES)
def test_a_disk_that_can_only_be_read(command: str, given: Path, read_only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(read_only) in refused(command, given, read_only, capsys)


@pytest.mark.parametrize("command", NAMES)
def test_a_file_in_the_folders_place(command: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("the user's own")
    assert str(tmp_path / "file") in refused(command, given, tmp_path / "file", capsys)
    assert (tmp_path / "file").read_text() == "the user's own"
