"""Any network opens by one call, with all that is known of it; a file never says which code is run."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

import dynamick as dk
from dynamick import models

IMAGES = torch.rand(2, 3, 32, 32)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, of a training that goes on."""
    model = models.create("res8-d3a", 3, "patch", 8, classes=["a", "b", "c"])
    extra = {
        "recipe": {"data": {"kind": "scenes", "size": 40}, "optim": {"epochs": 7}},
        "metrics": {"epoch": 2.0, "top1": 50.0},
    }
    dk.save(model, tmp_path / "last.safetensors", extra)
    return tmp_path


def same(one: nn.Module, other: nn.Module) -> bool:
    return torch.equal(one.eval()(IMAGES), other.eval()(IMAGES))


@pytest.mark.parametrize("by_name", [True, False])
def test_a_run_says_all_of_its_network(run: Path, by_name: bool) -> None:
    network = dk.open_network("res8-d3a", run) if by_name else dk.open_network(run)
    assert same(network.model, dk.load(run / "last.safetensors"))
    assert not network.model.training
    assert (network.name, network.head, network.layer) == ("res8-d3a", "fc", "layer3")
    assert network.classes == ["a", "b", "c"]
    assert network.preprocessing == dk.Preprocessing(40) == network.model.preprocessing
    assert network.data is not None
    assert (network.data.kind, network.data.size, network.center_crop) == ("scenes", 40, False)
    assert (network.source, network.epochs, network.accuracy) == (run / "last.safetensors", 7, 0.5)
    assert "after epoch 2 of 7" in str(network.state)


def test_what_the_user_says_counts_first(run: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    network = dk.open_network(run, size=48, std=(0.5, 0.5, 0.5), classes=tmp_path / "names.txt", layer="fc")
    assert network.preprocessing == dk.Preprocessing(48, std=(0.5, 0.5, 0.5))
    assert network.classes == network.model.classes == ["x", "y", "z"]
    with pytest.raises(dk.InputError, match="2 names for 3 outputs"):
        dk.open_network(run, classes=["x", "y"])
    with pytest.raises(dk.InputError, match="a BatchNorm2d; name the linear layer"):
        dk.open_network(run, layer="bn1")


@pytest.mark.parametrize("spec", ["resnet18", "torchvision:resnet18"])
def test_torchvisions_networks(spec: str, tmp_path: Path) -> None:
    model = torchvision.models.resnet18(num_classes=3)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    network = dk.open_network(spec, tmp_path / "w.pth")
    assert same(network.model, model)
    assert (network.head, network.preprocessing, network.classes) == ("fc", dk.Preprocessing(224), ["0", "1", "2"])
    assert network.center_crop
    with pytest.raises(dk.InputError, match="does not say what network it is of"):
        dk.open_network(tmp_path / "w.pth")


class Two(nn.Module):
    """The last linear layer is not the head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 4)
        self.projector = nn.Linear(8, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`module:function` of a module that says when it is imported or called."""
    source = (
        "from builtins import TWO, SAID\nSAID.append('imported')\ndef make():\n    SAID.append('called')\n    return TWO()\n"
    )
    (tmp_path / "openednet.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.TWO", Two, raising=False)
    monkeypatch.setattr("builtins.SAID", [], raising=False)
    monkeypatch.delitem(__import__("sys").modules, "openednet", raising=False)
    return "openednet:make"


def test_a_file_never_says_which_code_is_run(function: str, tmp_path: Path) -> None:
    import builtins

    said: list[str] = builtins.SAID  # type: ignore[attr-defined]
    network = dk.open_network(function, layer="head")
    dk.save(network.model, tmp_path / "w.safetensors")
    old = {"model": function, "classifier": "head", "k": "1", "rule": "at_most", "classes": "a\nb\nc\nd"}
    safetensors.torch.save_file(network.model.state_dict(), tmp_path / "old.safetensors", old)
    said.clear()
    for name in ("w", "old"):
        for read in (dk.load, dk.open_network):
            with pytest.raises(dk.InputError, match=r"no file may say which code is run; name the function yourself"):
                read(tmp_path / f"{name}.safetensors")
        assert not said
        named: Any = dk.load(tmp_path / f"{name}.safetensors", model=function)
        assert torch.equal(named.head.weight, network.model.head.weight)
        assert dk.open_network(function, tmp_path / f"{name}.safetensors").head == "head"
        said.clear()


def test_what_a_command_wrote_opens_for_who_named_the_function_alone(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins
    import sys

    said: list[str] = builtins.SAID  # type: ignore[attr-defined]
    path, module = tmp_path / "w.safetensors", tmp_path / "openednet.py"
    dk.save(dk.open_network(function, layer="head").model, path, vouch=True)
    assert dk.open_network(path).head == "head"
    key = next((Path(__import__("os").environ["XDG_STATE_HOME"])).rglob("key"))
    assert key.stat().st_mode & 0o77 == 0

    def refused() -> bool:
        sys.modules.pop("openednet", None)
        said.clear()
        with pytest.raises(dk.InputError, match="no file may say which code is run"):
            dk.load(path)
        return not said

    # Another user; other code; the same code elsewhere; another function; a module of that name that is loaded already.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert refused()
    monkeypatch.setenv("XDG_STATE_HOME", str(key.parents[1]))
    source = module.read_text()
    module.write_text(source + "\n")
    assert refused()
    module.write_text(source)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "openednet.py").write_text(source)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert refused()
    monkeypatch.chdir(tmp_path)
    assert isinstance(dk.load(path), Two)
    tensors, config = safetensors.torch.load_file(path), dk.networks.read_config(path)
    for change in ({"model": "openednet:other"}, {"signature": "0" * 64}, {"signature": None}, {"model": "os:abort"}):
        safetensors.torch.save_file(tensors, path, {"dynamick": json.dumps(config | change)})
        assert refused()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_format_for_every_network(function: str, tmp_path: Path, dtype: torch.dtype) -> None:
    """A converted head of another number of outputs, its mask and its precision come back; so do names and preprocessing."""
    for spec, weights in ((function, None), ("resnet18", tmp_path / "w.pth")):
        torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), tmp_path / "w.pth")
        network = dk.open_network(spec, weights, size=32, mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
        model: Any = network.model
        head = "head" if spec == function else "fc"
        features = model.get_submodule(head).in_features
        model.set_submodule(head, dk.DynamicLinear(features, 6, 2, rule="exactly"))
        model.get_submodule(head).set_mask(torch.rand(6, features) > 0.5)
        model.classes, model.head_name = list("abcdef"), head
        model.to(dtype)
        dk.save(model, tmp_path / "out.safetensors", {"note": 1})
        again: Any = dk.load(tmp_path / "out.safetensors", model=spec)
        x = IMAGES.to(dtype)
        assert torch.equal(again(x), model(x))
        layer = again.get_submodule(head)
        assert (layer.k, layer.rule, layer.weight.dtype) == (2, "exactly", dtype)
        assert (again.classes, again.preprocessing) == (list("abcdef"), model.preprocessing)
        opened = dk.open_network(spec, tmp_path / "out.safetensors")
        assert (opened.head, opened.classes) == (head, list("abcdef"))
        assert dk.networks.read_config(tmp_path / "out.safetensors")["extra"] == {"note": 1}


def test_the_wrong_name_is_told(tmp_path: Path) -> None:
    network = dk.networks.new_network("resnet18", 3)
    dk.save(network, tmp_path / "w.safetensors")
    assert same(dk.load(tmp_path / "w.safetensors"), network)
    with pytest.raises(dk.InputError, match="holds a resnet18, not a resnet34"):
        dk.load(tmp_path / "w.safetensors", model="resnet34")
    with pytest.raises(dk.InputError, match=r"resnet9000: unknown; give .*res18-d5a.*torchvision"):
        dk.open_network("resnet9000", tmp_path / "w.safetensors")


def test_a_model_is_taken_as_it_is() -> None:
    model: Any = Two()
    model.classes = {0: "a", 1: "b", 2: "c", 3: "d"}
    network = dk.open_network(model, layer="head")
    assert network.model is model
    assert (network.head, network.preprocessing, network.classes) == ("head", None, ["a", "b", "c", "d"])
    with pytest.raises(dk.InputError, match="does not say how its images are prepared"):
        network.need_preprocessing()


def test_any_model_is_saved_where_its_source_is_said(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(num_classes=3)
    with pytest.raises(dk.InputError, match="has no config"):
        dk.save(model, tmp_path / "w.safetensors")
    dk.save(dk.convert(model, k=2), tmp_path / "w.safetensors", spec="resnet18")
    assert same(dk.load(tmp_path / "w.safetensors"), model)


@pytest.mark.parametrize(
    "change",
    [{"source": "elsewhere"}, {"extra": None}, {"head": "nowhere"}, {"routed": {"fc": {"k": 0}}}, {"preprocessing": {"x": 1}}],
)
def test_a_configuration_that_builds_nothing_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "w.safetensors"
    dk.save(dk.networks.new_network("resnet18", 3), path)
    config = dk.networks.read_config(path) | change
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {"dynamick": json.dumps(config)})
    with pytest.raises(dk.InputError, match=r"w\.safetensors: [^\n]+$"):
        dk.load(path)
