"""A unit layer in networks of others: where it goes, what it computes, and that it goes again without a trace."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import dynamick as dk
from dynamick.nn import UnitLayer, find_classifier, find_place, unit_layer

MAPS = {"resnet18": "avgpool", "mobilenet_v2": "features", "densenet121": "features"}
VECTORS = {"mobilenet_v3_small": "classifier.3"}


def made(name: str) -> Any:
    torch.manual_seed(0)
    return torchvision.models.get_model(name, num_classes=7).eval()


def images(side: int = 64, count: int = 2) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


class Small(nn.Module):
    """A network whose arithmetic fits on a line."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.pool, self.fc = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.relu(self.conv(x))).flatten(1))
        return logits


@pytest.mark.parametrize("name", MAPS | VECTORS)
def test_networks_of_others(name: str) -> None:
    model, x = made(name), images()
    before, keys = model(x), set(model.state_dict())
    head = find_classifier(model)
    dk.convert(model, k=3, units=8, example=x)
    assert (MAPS | VECTORS)[name] == model.units.place.module
    assert (model.units.place.cells > 1) == (name in MAPS)
    new = {f"units.{each}" for each in ("conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")}
    assert set(model.state_dict()) - keys == {*new, "units.norm.num_batches_tracked"}
    assert keys <= set(model.state_dict())
    assert find_classifier(model) == head
    assert model.get_submodule(head).in_features == 8
    [explanation, _] = dk.explain(model, x, preprocess=None)
    assert (explanation.maps is not None) == (name in MAPS)
    assert explanation.logit == pytest.approx(explanation.bias + sum(explanation.products), abs=1e-5)
    dk.revert(model)
    assert torch.equal(model(x), before)
    assert set(model.state_dict()) == keys


def test_what_it_computes() -> None:
    model, x = Small().eval(), images(9)
    maps = model.conv(x).relu()
    dk.convert(model, k=2, units=5, example=x)
    with torch.no_grad():
        for value in (model.units.norm.weight, model.units.norm.bias, model.units.norm.running_mean):
            value.normal_()
        model.units.norm.running_var.uniform_(0.5, 2)
    norm = model.units.norm
    mixed = torch.einsum("bchw,uc->buhw", maps, model.units.conv.weight[:, :, 0, 0])
    scaled = (mixed - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
    unit_maps = (scaled * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)
    products = model.fc.weight * unit_maps.mean((2, 3))[:, None]
    wanted = products.clamp(min=0).topk(2, 2).values.sum(2) + model.fc.bias
    torch.testing.assert_close(model(x), wanted)


def test_it_learns_with_the_network() -> None:
    model = dk.convert(Small(), k=2, units=5, example=images(9)).train()
    F.cross_entropy(model(images(9, 8)), torch.arange(8) % 4).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert unit_layer(model) is not None


def test_a_copy_has_a_layer_of_its_own() -> None:
    model, x = dk.convert(Small().eval(), k=2, units=5, example=images(9)), images(9)
    before = model(x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(x), before)
        with torch.no_grad():
            other.units.norm.bias.add_(1)
        assert not torch.equal(other(x), before)
        assert torch.equal(model(x), before)
        dk.revert(other)
        assert not hasattr(other, "units")
        assert torch.equal(model(x), before)


def test_no_module_is_given_units_twice() -> None:
    """A ReLU that a network calls twice sees the last maps too, but not only them."""

    class Shared(Small):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(self.relu(self.second(self.relu(self.conv(x)))).mean((2, 3)))
            return logits

    model, x = Shared().eval(), images(9)
    place = find_place(model, "fc", x)
    assert (place.module, place.cells) == ("fc", 0)
    assert place.why is not None
    dk.convert(model, k=2, units=5, example=x)
    assert model(x).shape == (2, 4)


def test_fewer_units_say_the_same() -> None:
    layer = UnitLayer(6, 5).eval()
    with torch.no_grad():
        layer.norm.running_mean.normal_()
    x, kept = torch.randn(2, 6, 4, 4), torch.tensor([0, 3])
    before = layer(x)
    layer.keep(kept)
    torch.testing.assert_close(layer(x), before[:, kept])
    assert (layer.conv.out_channels, layer.norm.num_features) == (2, 2)
    torch.testing.assert_close(layer(x.mean((2, 3))), layer(x.mean((2, 3))[:, :, None, None]).flatten(1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"units": 0}, "units: 0 must be an integer from 1"),
        ({"units": 10**9}, "must be an integer from 1"),
        ({"layers": ["conv"]}, "name the classifier alone"),
        ({"k": 0}, "k"),
    ],
)
def test_bad_input_leaves_the_network_as_it_was(change: dict[str, Any], said: str) -> None:
    model, x = Small().eval(), images(9)
    before = model(x)
    with pytest.raises(ValueError, match=said):
        dk.convert(model, **{"units": 5, "example": x} | change)
    assert torch.equal(model(x), before)
    assert not hasattr(model, "units")


def test_units_go_in_once() -> None:
    model, x = dk.convert(Small().eval(), units=5, example=images(9)), images(9)
    before = model(x)
    with pytest.raises(dk.InputError, match="has 'units' already"):
        dk.convert(model, units=5, example=x)
    assert torch.equal(model(x), before)


def test_other_precisions() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        model = dk.convert(Small().eval().to(dtype), k=2, units=5, example=images(9).to(dtype))
        assert model(images(9).to(dtype)).dtype == dtype


def test_a_classifier_on_maps_is_refused() -> None:
    model = torchvision.models.squeezenet1_1(num_classes=7).eval()
    with pytest.raises(dk.InputError, match="one vector an image"):
        dk.convert(model, units=5, example=images())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_a_file_of_it_opens(name: str, tmp_path: Path) -> None:
    model, x = dk.open_network(made(name), classes=[*"abcdefg"]).model, images()
    dk.convert(model, k=3, units=8, example=x)
    with torch.no_grad():
        model.units.norm.running_mean.normal_()
    dk.save(model, tmp_path / "with units.safetensors", spec=f"torchvision:{name}")
    other: Any = dk.load(tmp_path / "with units.safetensors")
    assert torch.equal(other(x), model(x))
    assert other.units.place == model.units.place
    with pytest.raises(dk.InputError, match="is not in the network's file"):
        dk.revert(other)


def test_a_file_of_this_projects_networks_opens(tmp_path: Path) -> None:
    model, x = dk.models.create("res8", 4, width=4), images(32)
    dk.convert(model, k=3, units=8, example=x)
    dk.save(model, tmp_path / "units.safetensors")
    assert torch.equal(dk.load(tmp_path / "units.safetensors")(x), model.eval()(x))


@pytest.mark.parametrize(
    ("parts", "at"),
    [
        ([nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)], "2"),
        ([nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)], "1"),
        ([nn.Flatten(), nn.Linear(243, 6), nn.ReLU(), nn.Linear(6, 4)], "3"),
    ],
)
def test_parts_that_run_in_turn(parts: list[nn.Module], at: str) -> None:
    """A layer that were a part of the row would run once more at its end."""
    model, x = nn.Sequential(*parts).eval(), images(9)
    before, keys = model(x), set(model.state_dict())
    dk.convert(model, k=2, units=5, example=x)
    assert model(x).shape == (2, 4)
    assert {name.rpartition(".units.")[0] for name in set(model.state_dict()) - keys} == {at}
    inputs = []
    model[-1].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    model(x)
    assert inputs[0].shape == (2, 5)
    assert (inputs[0] >= 0).all()
    dk.revert(model)
    assert torch.equal(model(x), before)
    assert set(model.state_dict()) == keys


def test_units_on_a_heads_input_stay_when_its_k_changes() -> None:
    """In a network that runs its parts in turn they are the head's own, and the head is replaced."""
    x = torch.rand(2, 3, 12, 12)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    before = model(x)
    converted = dk.convert(model, k=4, units=6, example=x).eval()
    routed = converted(x)
    again = dk.convert(converted, k=6)
    assert {name for name in again.state_dict() if "units" in name}
    assert torch.equal(dk.convert(again, k=4)(x), routed)
    assert torch.equal(dk.revert(again)(x), before)
