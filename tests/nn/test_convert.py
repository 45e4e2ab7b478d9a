"""`convert` and `revert` on any module tree: the paper's "plugged into any CNN"."""

import copy

import pytest
import torch
from torch import nn

import dynamick as dk
from dynamick.nn import find_classifier
from dynamick.torchvision_shim import torchvision

CLASSIFIERS = {
    "resnet18": "fc",
    "vgg11": "classifier.6",
    "densenet121": "classifier",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "convnext_tiny": "classifier.2",
    "efficientnet_b0": "classifier.1",
    "regnet_y_400mf": "fc",
    "squeezenet1_1": "classifier.1",
    "googlenet": "fc",
    "vit_b_16": "heads.head",
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_torchvision_models(name: str) -> None:
    # RegNet computes its widths with tensors, which must hold numbers.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = torchvision.models.get_model(name, num_classes=10)
    assert find_classifier(model) == CLASSIFIERS[name]
    before = {key: id(value) for key, value in model.named_parameters()}
    keys = list(model.state_dict())
    dk.convert(model, k=3)
    layer = model.get_submodule(CLASSIFIERS[name])
    assert isinstance(layer, dk.DynamicLinear | dk.DynamicConv2d)
    assert layer.k == 3
    assert {key: id(value) for key, value in model.named_parameters()} == before
    assert list(model.state_dict()) == keys
    dk.revert(model)
    assert type(model.get_submodule(CLASSIFIERS[name])) in (nn.Linear, nn.Conv2d)
    assert {key: id(value) for key, value in model.named_parameters()} == before


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_a_converted_model_computes_and_a_round_trip_gives_the_same_bits(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=7).eval()
    x = torch.randn(2, 3, 64, 64)
    dense = model(x)
    everything = dk.convert(copy.deepcopy(model), k=10**6, rule="exactly")
    torch.testing.assert_close(everything(x), dense, rtol=1e-4, atol=1e-4)
    few = dk.convert(model, k=2)(x)
    assert few.shape == dense.shape
    assert not torch.equal(few, dense)
    assert torch.equal(dk.revert(model)(x), dense)


class Tree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)))
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 4), "b": nn.Linear(8, 4)})
        self.again = self.heads["a"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x).mean((2, 3))
        return self.heads["a"](x) + self.again(x) + self.heads["b"](x)


def test_nested_names_and_shared_modules() -> None:
    model = dk.convert(Tree(), k=2, layers=["body.1.1", "again"])
    assert isinstance(model.body[1][1], dk.DynamicConv2d)
    assert model.again is model.heads["a"]
    assert isinstance(model.again, dk.DynamicLinear)
    assert type(model.heads["b"]) is nn.Linear
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    dk.revert(model)
    assert model.again is model.heads["a"]
    assert not any(isinstance(m, dk.DynamicLinear | dk.DynamicConv2d) for m in model.modules())


def test_converting_again_changes_k() -> None:
    model = dk.convert(dk.convert(Tree(), k=2, layers="heads.b"), k=3, layers="heads.b", rule="exactly")
    assert (model.heads["b"].k, model.heads["b"].rule) == (3, "exactly")


def test_a_model_that_is_a_layer_and_training_mode() -> None:
    layer = nn.Linear(3, 2).eval()
    new = dk.convert(layer, k=1)
    assert isinstance(new, dk.DynamicLinear)
    assert new.weight is layer.weight
    assert not new.training


def test_optimiser_keeps_its_parameters() -> None:
    model = Tree()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    dk.convert(model, k=2)
    assert {id(p) for group in optimiser.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}


def test_a_name_that_is_not_there_is_said_and_nothing_is_changed() -> None:
    model = Tree()
    with pytest.raises(ValueError, match=r"no 'heads\.c'; near it are 'heads\.b'"):
        dk.convert(model, k=2, layers=["again", "heads.c"])
    with pytest.raises(ValueError, match="is a Sequential"):
        dk.convert(model, k=2, layers=["again", "body"])
    for k in (0, -1, 2.5, "five"):
        with pytest.raises(ValueError, match="integer from 1 up"):
            dk.convert(model, k=k)  # type: ignore[arg-type]
    assert type(model.again) is nn.Linear
    with pytest.raises(ValueError, match="no linear layer"):
        dk.convert(nn.Sequential(nn.ReLU()))
