"""`dynamick explain`: the page holds the network's own numbers, and bad input loses nothing."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dynamick as dk
from dynamick.cli.main import main
from dynamick.data import ComposedScenes

CLASSES = ["<script>alert(1)</script>", *(f"class {i}" for i in range(1, 10))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four scenes, one of them in a class's folder, and a file that only says it is an image."""
    images = tmp_path / "images"
    (images / "class 3").mkdir(parents=True)
    scenes = ComposedScenes("val", 4, image_size=32)
    for i, name in enumerate(["a", "b", "c", "class 3/d"]):
        Image.fromarray(scenes.images[i].permute(1, 2, 0).numpy()).save(images / f"{name}.png")
    (images / "broken.png").write_bytes(b"not an image")
    (images / "folder.png").mkdir()
    return images


def weights(tmp_path: Path, name: str) -> Path:
    torch.manual_seed(0)
    path = tmp_path / f"{name}.safetensors"
    dk.save(dk.models.create(name, 10, stem="compact", width=8, classes=CLASSES), path)
    return path


def status(*args: object) -> int:
    try:
        main([str(each) for each in args])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize("name", ["res8-d3a", "res8"])
def test_the_page_holds_what_the_network_computes(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = weights(tmp_path, name), tmp_path / "page.html"
    assert status("explain", "--weights", path, "--images", folder, "--out", out) == 0
    said = capsys.readouterr()
    assert said.out.startswith("4 images explained")
    assert "broken.png: cannot be read as an image" in said.err
    html = out.read_text()
    assert "<script>alert(1)" not in html
    assert "1 of the files could not be read" in html
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[0])
    model = dk.load(path)
    files = ["a.png", "b.png", "c.png", "class 3/d.png"]
    assert [each["name"] for each in data["instances"]] == files
    images = torch.stack([torch.from_numpy(np.array(Image.open(folder / file))).permute(2, 0, 1) for file in files])
    with torch.no_grad():
        logits = model(model.preprocessing(images))
    for instance, want in zip(data["instances"], logits, strict=True):
        shown = np.frombuffer(base64.b64decode(instance["logits"]), dtype="<f4")
        np.testing.assert_allclose(shown, want.numpy(), rtol=1e-4, atol=1e-5)


def test_bad_input(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = weights(tmp_path, "res8-d3a"), tmp_path / "page.html"
    tally = tmp_path / "tally.csv"
    tally.write_text("unit,category,label,score\n1,part,wheel,0.2\n2,part,wing,0.1\n")
    (tmp_path / "empty").mkdir()
    common = ("explain", "--weights", path, "--out", out, "--images")
    for args, message in [
        ((*common, tmp_path / "nowhere"), "nowhere: no such folder"),
        ((*common, tmp_path / "empty"), "empty: no readable image"),
        ((*common, folder, "--units", tally), "2 units dissected, but the head reads 32"),
        ((*common, folder, "--limit", 0), "--limit: 0 must be"),
        (("explain", "--weights", path, "--images", folder, "--out", tmp_path / "no" / "page.html"), "folder does not exist"),
    ]:
        assert status(*args) == 2
        err = capsys.readouterr().err
        assert len([line for line in err.splitlines() if line.startswith("dynamick: ")]) == 1
        assert message in err
    assert not out.exists()
