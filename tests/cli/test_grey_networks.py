"""A network for images of one channel goes through every command; told that its images have three, one line says what helps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dynamick as dk
from dynamick.cli.main import main
from dynamick.comparison.heads import stepped
from dynamick.data import ComposedScenes

NETWORK = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
"""
COLOURED = ["--size", "16", "--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.2", "0.2"]
GREY = ["--size", "16", "--mean", "0.5", "--std", "0.2"]


@pytest.fixture(autouse=True)
def here(two_colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepped, "STEPS", 60)
    (tmp_path / "greynetwork.py").write_text(NETWORK)
    ComposedScenes("val", 12, image_size=32).write_broden(tmp_path / "concepts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def status(*args: object) -> int:
    try:
        main([str(each) for each in args])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def commands(more: list[str]) -> list[list[str]]:
    made = ["--model", "greynetwork:make", *more]
    torch.save(make().state_dict(), "w.pt")
    return [
        ["dissect", *made, "--layer", "0", "--data", "concepts", "--out", "dissected", "--quantile", "0.9"],
        ["retrofit", *made, "--data", "data", "--out", "retrofitted", "--units", "none", "--k", "2"],
        ["explain", *made, "--weights", "w.pt", "--images", "data/val", "--json", "e.json"],
    ]


def make() -> torch.nn.Module:
    names: dict = {}
    exec(NETWORK, names)
    return names["make"]()


def test_told_three_channels_each_command_says_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(COLOURED):
        assert status(*command) == 2, command
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith(
            "dynamick: model: takes images of 1 channel, and is given 3; give --mean and --std of one"
        ), lines


def test_every_command_serves_it(capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(GREY):
        assert status(*command) == 0, capsys.readouterr().err
    image = Image.open("data/val/blue/0.png").convert("RGB")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = make().eval()(dk.Preprocessing(mean=(0.5,), std=(0.2,))(pixels))
    first = json.loads(Path("e.json").read_text())[0]
    assert first["file"] == "blue/0.png"
    assert first["logit"] == pytest.approx(float(logits.max()), abs=1e-5)
    written = ["explain", "--weights", "retrofitted/weights.safetensors", "--model", "greynetwork:make"]
    assert status(*written, "--images", "data/val", "--json", "again.json") == 0, capsys.readouterr().err
    assert all(len(each["units"]) <= 2 for each in json.loads(Path("again.json").read_text()))
