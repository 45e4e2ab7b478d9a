"""One safetensors file rebuilds the model; a damaged one is said to be so; a failed write loses nothing."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import dynamick as dk
from dynamick import models, networks


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = models.create("res8-d3a", 4, width=8, classes=list("abcd"), preprocessing=dk.Preprocessing(size=24))
    dk.save(model, tmp_path / "w.safetensors", extra={"top1": 50.0})
    return tmp_path / "w.safetensors"


def test_the_file_alone_rebuilds_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    preprocessing = dk.Preprocessing(size=24, mean=(0.1, 0.2, 0.3), bgr=True)
    model = models.create("res8-d3a", 4, width=8, classes=list("abcd"), preprocessing=preprocessing, rule="exactly")
    model.fc.set_mask(torch.rand(4, 32) > 0.5)
    dk.save(model, tmp_path / "w.safetensors", extra={"epoch": 3})
    loaded = dk.load(tmp_path / "w.safetensors")
    x = torch.randn(2, 3, 24, 24)
    assert torch.equal(loaded(x), model.eval()(x))
    assert (loaded.preprocessing, loaded.classes, loaded.config) == (model.preprocessing, list("abcd"), model.config)
    assert not loaded.training
    assert dk.networks.read_config(tmp_path / "w.safetensors")["extra"] == {"epoch": 3}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_keeps_its_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    model = models.create("res8-d3a", 4, stem="patch", width=8).to(dtype)
    dk.save(model, tmp_path / "w.safetensors")
    loaded = dk.load(tmp_path / "w.safetensors")
    x = torch.randn(2, 3, 24, 24, dtype=dtype)
    assert torch.equal(loaded(x), model.eval()(x))
    assert loaded.fc.weight.dtype is dtype
    # Whoever writes over the file does not write over the model.
    (tmp_path / "w.safetensors").write_bytes(b"")
    assert torch.equal(loaded(x), model.eval()(x))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("length", [0, 4, 200, -7])
def test_a_truncated_file_is_named(saved: Path, length: int) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(dk.InputError, match=r"w\.safetensors: no readable safetensors file[^\n]+$"):
        dk.load(saved)


def test_other_files_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(dk.InputError, match="no such file"):
        dk.load(tmp_path / "missing.safetensors")
    with pytest.raises(dk.InputError, match=r"a folder; give [^\n]+last\.safetensors$"):
        dk.load(tmp_path)
    saved.write_bytes(os.urandom(5000))
    with pytest.raises(dk.InputError, match="no readable safetensors file"):
        dk.load(saved)
    safetensors.torch.save_file({"a": torch.zeros(1)}, saved)
    with pytest.raises(dk.InputError, match="no dynamick configuration"):
        dk.load(saved)


def test_weights_of_another_architecture_are_refused(saved: Path) -> None:
    tensors = safetensors.torch.load_file(saved)
    config = networks.read_config(saved) | {"width": 16}
    safetensors.torch.save_file(tensors, saved, {"dynamick": json.dumps(config)})
    with pytest.raises(dk.InputError, match=r"do not fit the res8-d3a [^\n]+$"):
        dk.load(saved)


@pytest.mark.parametrize("change", [{"width": 10**7}, {"width": 10**18}, {"num_classes": 10**15, "classes": None}])
def test_sizes_that_a_damaged_file_makes_up_take_no_memory(saved: Path, change: dict[str, Any]) -> None:
    tensors, config = safetensors.torch.load_file(saved), networks.read_config(saved) | change
    safetensors.torch.save_file(tensors, saved, {"dynamick": json.dumps({k: v for k, v in config.items() if v is not None})})
    with pytest.raises(dk.InputError, match=r"w\.safetensors: [^\n]+$"):
        dk.load(saved)


def test_a_full_disk_leaves_the_last_good_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        dk.save(dk.load(saved), saved)
    assert saved.read_bytes() == good
    assert list(saved.parent.iterdir()) == [saved]


def test_a_model_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(dk.InputError, match="no config"):
        dk.save(torch.nn.Linear(2, 2), tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ("res8", lambda model: dk.convert(model, k=2, rule="exactly"), "res8-d2a"),
        ("res8-l1", lambda model: dk.convert(model, k=2), "res8-d2a"),
        ("res8-d2a", dk.revert, "res8"),
        ("res8-d5a", lambda model: setattr(model.fc, "k", 1), "res8-d1a"),
        ("res8-d5a", lambda model: setattr(model.fc, "threshold", "gradients"), "res8-d5g"),
        ("res8", lambda model: setattr(model, "fc", torch.nn.Linear(32, 4)), "res8"),
    ],
)
def test_what_was_converted_or_set_since_is_kept(tmp_path: Path, before: str, change: Any, after: str) -> None:
    model = models.create(before, 4, "patch", 8, classes=list("abcd")).eval()
    change(model)
    dk.save(model, tmp_path / "w.safetensors")
    again = dk.load(tmp_path / "w.safetensors")
    assert isinstance(again, models.ResNet)
    assert (again.config["model"], type(again.fc)) == (after, type(model.fc))
    assert getattr(again.fc, "rule", None) == getattr(model.fc, "rule", None)
    x = torch.rand(5, 3, 16, 16)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: dk.convert(model, layers="conv1"), "conv1 was converted"),
        (lambda model: setattr(model, "fc", torch.nn.Sequential(model.fc)), "fc is Sequential"),
        (lambda model: setattr(model, "fc", torch.nn.Linear(32, 4, bias=False)), "fc is Linear"),
        (lambda model: setattr(model, "fc", torch.nn.Linear(32, 3)), "fc has 3 outputs and model.classes 4 names"),
    ],
)
def test_what_no_configuration_says_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    model = models.create("res8", 4, "patch", 8)
    change(model)
    with pytest.raises(dk.InputError, match=message):
        dk.save(model, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())
