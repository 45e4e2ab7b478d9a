"""`dynamick compare` and `retrofit` on a full disk, or twice at once: one line, and the same command goes on."""

import errno
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

import dynamick as dk
from dynamick import files, models
from dynamick.cli.main import main


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A network of two classes, and a folder of their images."""
    for split, count in (("train", 8), ("val", 4)):
        for value, name in ((50, "dark"), (200, "light")):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (16, 16), (value + number,) * 3).save(tmp_path / "images" / split / name / f"{number}.png")
    torch.manual_seed(0)
    dk.save(models.create("res8", 2, "patch", 2, dk.Preprocessing(16), classes=["dark", "light"]), tmp_path / "net.safetensors")
    return tmp_path


def command(place: Path, name: str) -> list[str]:
    root, weights, out = (str(place / each) for each in ("images", "net.safetensors", name))
    if name == "compare":
        given = ["--data", "folder", "--root", root, "--heads", "dense", "magnitude", "--budgets", "1", "--seeds", "1"]
        return [name, "--weights", weights, "--out", out, *given]
    return [name, "--model", "res8", "--weights", weights, "--data", root, "--units", "none", "--k", "1", "--out", out]


def ended(place: Path, name: str) -> int:
    try:
        main(command(place, name))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def made(out: Path) -> dict[str, Any]:
    """All that a folder holds but for times."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        if path.suffix == ".safetensors":
            found[path.name] = {key: tensor.tolist() for key, tensor in safetensors.torch.load_file(path).items()}
        elif path.name in ("table.json", "retrofit.json"):
            text = json.loads(path.read_text())
            found[path.name] = [{**row, "seconds": 0} for row in text["rows"]] if "rows" in text else text["after"]
    return found


@pytest.mark.parametrize("name", ["compare", "retrofit"])
def test_the_same_command_twice_at_once_is_refused(place: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with files.alone(place / name):
        assert ended(place, name) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name}: another process is filling this" in line


@pytest.mark.parametrize("name", ["compare", "retrofit"])
def test_a_disk_that_is_full_at_any_write_costs_nothing(
    place: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write in turn is refused, once; the command is given again until it is done."""
    real = files._write_beside

    def full(path: Path, content: bytes, durable: bool) -> None:
        if path not in refused:
            refused.add(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, content, durable)

    refused: set[Path] = set()
    monkeypatch.setattr(files, "_write_beside", full)
    for _ in range(30):
        if (status := ended(place, name)) == 0:
            break
        said = capsys.readouterr()
        last = [text.splitlines()[-1] for text in (said.err, said.out) if text]
        assert "No space left on device" in last[0] or "cells failed" in last[-1]
        assert status in (1, 2)
    assert status == 0
    assert len(refused) > 4
    disturbed = made(place / name)
    assert not list((place / name).rglob(".*"))
    monkeypatch.setattr(files, "_write_beside", real)
    (place / name).rename(place / "disturbed")
    assert ended(place, name) == 0
    assert made(place / name) == disturbed


@pytest.mark.parametrize("name", ["compare", "retrofit"])
@pytest.mark.parametrize("number", [2, 5])
def test_a_folder_that_is_removed_while_it_is_written(
    place: Path, name: str, number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = files._write_beside, 0

    def removed(path: Path, content: bytes, durable: bool) -> None:
        nonlocal written
        written += 1
        if written == number:
            shutil.rmtree(place / name)
        real(path, content, durable)

    monkeypatch.setattr(files, "_write_beside", removed)
    assert ended(place, name) in (1, 2)
    assert str(place / name) in capsys.readouterr().err.splitlines()[-1]
    assert ended(place, name) == 0


@pytest.mark.parametrize("name", ["compare", "retrofit"])
def test_a_clock_that_goes_backwards(place: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a machine's clock is set while it works."""
    times = (1e9 - 3600 * number for number in itertools.count())
    monkeypatch.setattr("time.time", lambda: next(times))
    monkeypatch.setattr("tqdm.std.time", lambda: next(times))
    assert ended(place, name) == 0
    assert ended(place, name) == 0


def test_what_a_killed_comparison_left_is_taken_away(place: Path) -> None:
    assert ended(place, "compare") == 0
    (features,) = (place / "compare").glob("features/*/val")
    (features / "chunk-00000.safetensors").unlink()
    left = [each / ".half.99999999-1" for each in (place / "compare", place / "compare" / "cells" / "net", features)]
    for each in left:
        each.write_bytes(bytes(1000))
    assert ended(place, "compare") == 0
    assert not any(each.exists() for each in left)
