"""timm's networks by name: weights of a file, as many outputs as it has, the preprocessing that timm says, and one format."""

from pathlib import Path
from typing import Any

import pytest
import torch

import dynamick as dk

timm: Any = pytest.importorskip("timm", reason="timm is an extra")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=3)
    torch.save({"state_dict": model.state_dict(), "state_dict_ema": {}}, tmp_path / "w.pth.tar")
    return tmp_path / "w.pth.tar"


def test_a_file_of_weights(file: Path, tmp_path: Path) -> None:
    network = dk.open_network("timm:resnet10t", file)
    model: Any = network.model
    config = timm.get_pretrained_cfg("resnet10t")
    assert (network.head, network.classes) == ("fc", ["0", "1", "2"])
    assert network.preprocessing == dk.Preprocessing(config.input_size[-1], config.mean, config.std)
    dk.convert(model, k=2)
    dk.save(model, tmp_path / "w.safetensors")
    again = dk.load(tmp_path / "w.safetensors")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert dk.open_network(tmp_path / "w.safetensors").preprocessing == network.preprocessing


def test_what_is_not_there_is_one_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(dk.InputError, match=r"^model timm:resnet11t: unknown; [^\n]+$"):
        dk.open_network("timm:resnet11t", file)
    with pytest.raises(dk.InputError, match=r"^model timm:resnet10t: needs --weights, [^\n]+$"):
        dk.open_network("timm:resnet10t")
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(dk.InputError, match=r"timm is not installed \([^\n]+pip install 'dynamick\[timm\]'"):
        dk.open_network("timm:resnet10t", file)


def test_its_own_linear_layers_take_a_dynamic_head() -> None:
    model = dk.networks.new_network("timm:mobilenetv3_small_050", 4)
    assert isinstance(dk.convert(model, k=2).get_submodule("classifier"), dk.DynamicLinear)
