"""The paper's names, and ResNets whose parameters are torchvision's."""

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

import dynamick as dk
from dynamick import models


@given(
    depth=st.sampled_from([8, 10, 14, 18, 34, 50, 101]),
    head=st.one_of(st.just(""), st.just("-l1"), st.integers(1, 999).map(lambda k: f"-d{k}a")),
)
def test_names_are_printed_as_they_are_parsed(depth: int, head: str) -> None:
    assert str(models.parse(f"res{depth}{head}")) == f"res{depth}{head}"


@pytest.mark.parametrize(
    "name", ["res18-d0a", "res18-d-1a", "res18-d2.5a", "res18-dfivea", "res17", "resnet18", "res18-d5", "", "res18-d٣a"]
)
def test_other_names_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(dk.InputError, match=r"^model: [^\n]+$"):
        models.parse(name)


@pytest.mark.parametrize(("name", "depth"), [("resnet18", 18), ("resnet50", 50)])
def test_is_torchvisions_resnet(name: str, depth: int) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=7).eval()
    ours = models.create(f"res{depth}", 7, stem="imagenet").eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_cifar_resnet18_has_512_features_and_the_heads_differ() -> None:
    assert models.create("res18").fc.in_features == 512
    assert models.create("res8", width=48).fc.in_features == 192
    dynamic = models.create("res10-d7a", num_classes=5, width=8, rule="exactly")
    assert isinstance(dynamic.fc, dk.DynamicLinear)
    assert (dynamic.fc.k, dynamic.fc.rule) == (7, "exactly")
    assert type(models.create("res10-l1", width=8).fc) is torch.nn.Linear
    assert dynamic(torch.randn(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    "arguments",
    [{"stem": "vgg"}, {"num_classes": 1}, {"width": 0}, {"classes": ["a"]}, {"rule": "most"}],
)
def test_bad_arguments_are_refused_in_one_line(arguments: dict) -> None:
    with pytest.raises(dk.InputError, match=rf"^{next(iter(arguments))}: [^\n]+$"):
        models.create("res8", **arguments)


@pytest.mark.parametrize(("stem", "side"), [("cifar", 64), ("compact", 32), ("patch", 32), ("imagenet", 16)])
def test_what_each_stem_leaves_of_the_image(stem: str, side: int) -> None:
    model = models.create("res8", stem=stem, width=4)
    sides: list[int] = []
    model.layer1.register_forward_pre_hook(lambda module, inputs: sides.append(inputs[0].shape[-1]))
    model(torch.zeros(1, 3, 64, 64))
    assert sides == [side]
