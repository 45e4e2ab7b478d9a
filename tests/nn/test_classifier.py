"""Which layer is the classifier: of networks without a head, with several, of timm's; and subclasses of layers."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import dynamick as dk
from dynamick.nn import find_classifier


def without(name: str, head: str, empty: nn.Module) -> nn.Module:
    with torch.device("meta"):
        model: Any = torchvision.models.get_model(name)
    model.set_submodule(head, empty)
    return model


@pytest.mark.parametrize(
    ("name", "head", "empty"),
    [
        ("resnet18", "fc", nn.Identity()),
        ("resnet50", "fc", nn.Sequential()),
        ("vit_b_16", "heads", nn.Identity()),
        ("swin_t", "head", nn.Identity()),
        ("convnext_tiny", "classifier", nn.Flatten()),
        ("efficientnet_b0", "classifier.1", nn.Identity()),
        ("mobilenet_v2", "classifier", nn.Sequential(nn.Dropout())),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_network_without_its_head_is_refused_and_left_as_it_was(name: str, head: str, empty: nn.Module, inside: bool) -> None:
    model = without(name, head, empty)
    if inside:
        model = nn.ModuleDict({"model": model})
    before = [type(each) for each in model.modules()]
    with pytest.raises(ValueError, match="has no classifier"):
        dk.convert(model, k=5)
    assert [type(each) for each in model.modules()] == before


def test_a_body_of_a_network_has_no_classifier() -> None:
    with torch.device("meta"):
        bodies = [
            nn.Sequential(*list(torchvision.models.resnet50().children())[:-1]),
            nn.Sequential(*list(torchvision.models.swin_t().children())[:-1]),
        ]
    for body in bodies:
        with pytest.raises(ValueError, match="has no classifier"):
            find_classifier(body)
    assert find_classifier(nn.Sequential(bodies[0], nn.Flatten(), nn.Linear(2048, 4))) == "2"


@pytest.mark.parametrize(
    ("name", "head"),
    [("fcn_resnet50", "classifier.4"), ("inception_v3", "fc"), ("googlenet", "fc"), ("deeplabv3_resnet50", "classifier.4")],
)
def test_auxiliary_heads_are_not_the_classifier(name: str, head: str) -> None:
    more = {"init_weights": False} if name in ("inception_v3", "googlenet") else {"weights_backbone": None, "aux_loss": True}
    with torch.device("meta"):
        assert find_classifier(torchvision.models.get_model(name, weights=None, **more)) == head


class Beside(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = nn.Linear(3, 8)
        self.diseases = nn.Linear(8, 4)
        self.projector = nn.Linear(8, outputs)


def test_heads_side_by_side_are_listed() -> None:
    with pytest.raises(ValueError, match=r"which head is meant, 'diseases', 'projector'\? Name it"):
        dk.convert(Beside(16), k=2)
    assert isinstance(dk.convert(Beside(16), k=2, layers="diseases").diseases, dk.DynamicLinear)  # type: ignore[union-attr]
    with pytest.raises(dk.InputError, match="which head is meant"):
        dk.open_network(Beside(16)).need_head()
    assert dk.open_network(Beside(16), layer="diseases").need_head() == "diseases"


def test_timms_networks_say_their_classifier() -> None:
    timm = pytest.importorskip("timm", reason="timm is an extra")
    for name, head in (
        ("mobilenetv3_small_050", "classifier"),
        ("resnet10t", "fc"),
        ("deit_tiny_distilled_patch16_224", "head"),
    ):
        model = timm.create_model(name, num_classes=4)
        assert find_classifier(model) == head
        dk.convert(model, k=2)
        assert isinstance(model.get_submodule(head), dk.DynamicLinear)
        with pytest.raises(ValueError, match="has no classifier"):
            dk.convert(timm.create_model(name, num_classes=0))


class Plain(nn.Linear):
    pass


class Named(nn.Linear):
    """As timm's: another forward pass, the same numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Scaled(nn.Linear):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.scale = nn.Parameter(torch.ones(()))


class Padded(nn.Conv2d):
    """Pads by the size of its input, as TensorFlow does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)))


@pytest.mark.parametrize("kind", [Plain, Named])
def test_a_subclass_that_computes_the_same_is_converted(kind: type[nn.Linear]) -> None:
    model = nn.Sequential(nn.Flatten(), kind(8, 4))
    called: list[int] = []
    model[1].register_forward_hook(lambda *_: called.append(1))
    x, y = torch.randn(3, 8), model(torch.zeros(1, 8))
    weight = model[1].weight
    dense = model(x)
    dk.convert(model, k=2)
    assert (type(model[1]), len(called)) == (dk.DynamicLinear, 2)
    assert model[1].weight is weight
    assert torch.equal(dk.revert(model)(x), dense)
    assert torch.equal(model(torch.zeros(1, 8)), y)


@pytest.mark.parametrize("layer", [Doubled(8, 4), Scaled(8, 4), Padded(3, 4, 2, 2)])
def test_a_subclass_that_computes_otherwise_is_refused_by_its_full_name(layer: nn.Module) -> None:
    model = nn.Sequential(layer)
    with pytest.raises(ValueError, match=rf"'0' is a \S*test_classifier\.{type(layer).__name__}, which computes otherwise"):
        dk.convert(model, k=2, layers="0")
    assert model[0] is layer
