"""What the evaluation refuses, in one line that names the file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import dynamick as dk

Command = Callable[..., tuple[int, str]]


def test_bad_weights(tmp_path: Path, run: Command) -> None:
    good = tmp_path / "good.safetensors"
    dk.save(dk.models.create("res8-d5a", width=4), good)
    cases = {"missing": None, "empty": b"", "truncated": good.read_bytes()[:-100], "text": b"hello" * 100}
    for name, content in cases.items():
        path = tmp_path / f"{name}.safetensors"
        if content is not None:
            path.write_bytes(content)
        code, err = run("evaluate", path, "--data", "scenes")
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert str(path) in err
    for wrong in (tmp_path, tmp_path / "nowhere" / "f.json"):
        code, err = run("evaluate", good, "--data", "scenes", "--out", wrong)
        assert (code, "give a file's name, in a folder that exists" in err) == (2, True)
    for config in (
        "{",
        "[1]",
        '{"preprocessing": {}}',
        '{"model": "res8-d5a"}',
        '{"model": "res8", "preprocessing": {}, "a": 1}',
    ):
        safetensors.torch.save_file(
            safetensors.torch.load_file(good), tmp_path / "b.safetensors", {dk.networks.saving.KEY: config}
        )
        code, err = run("evaluate", tmp_path / "b.safetensors", "--data", "scenes")
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert "its configuration" in err
    code, err = run("evaluate", good)
    assert (code, "does not say on which data" in err) == (2, True)
    code, err = run("evaluate", good, "--data", "scenes")
    assert (code, "but the model knows 10 (0, 1, 2" in err) == (2, True)
    assert err.startswith("dynamick: generated scenes: 10 classes (laptop, ")
    # A file whose weights are of another architecture than it says.
    tensors = safetensors.torch.load_file(good)
    config = dk.networks.read_config(good)
    safetensors.torch.save_file(tensors, good, {dk.networks.saving.KEY: json.dumps({**config, "width": 8})})
    code, err = run("evaluate", good, "--data", "scenes")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "do not fit" in err


def test_networks_of_others_are_evaluated(tmp_path: Path, two_colours: Path, run: Command) -> None:
    model = dk.networks.new_network("resnet18", 2)
    model.classes, model.preprocessing = ["blue", "red"], dk.Preprocessing(16)  # type: ignore[assignment]
    dk.save(model, tmp_path / "w.safetensors")
    command = ("--data", "folder", "--root", two_colours)
    code, err = run("evaluate", tmp_path / "w.safetensors", *command, "--out", tmp_path / "figures.json")
    assert (code, "evaluating: 1/1 batches" in err) == (0, True)
    images = dk.data.open_images(dk.data.DataRecipe("folder", str(two_colours), 16, in_memory=False), "val")
    batch, labels = images.take(range(len(images)))
    with torch.no_grad():
        right = model.eval()(model.preprocessing(batch)).argmax(1) == labels  # type: ignore[operator]
    assert json.loads((tmp_path / "figures.json").read_text())["top1"] == pytest.approx(100 * right.double().mean().item())
    model.classes = ["blue", "green"]  # type: ignore[assignment]
    dk.save(model, tmp_path / "other.safetensors")
    code, err = run("evaluate", tmp_path / "other.safetensors", *command)
    assert (code, "but the model knows 2 (blue, green, ...)" in err) == (2, True), err
