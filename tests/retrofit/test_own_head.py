"""A network's own head whose outputs are in another order than the folders: named, it is read in the folders' order."""

from typing import Any

import pytest
import torch
from torch import nn

import dynamick as dk
from dynamick.retrofit.own_head import order_looks_wrong, own_head


def network(classes: Any = None) -> dk.OpenNetwork:
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.arange(15.0).view(3, 5))
    return dk.open_network(model, classes=classes)


@pytest.mark.parametrize("classes", [["c", "a", "b"], {0: "c", 1: "a", 2: "b"}, {"a": 1, "b": 2, "c": 0}])
def test_outputs_are_put_into_the_folders_order(classes: Any) -> None:
    opened = network(classes)
    order = opened.order_of(["a", "b", "c"])
    assert order == [1, 2, 0]
    head = own_head(opened, order)
    old: Any = opened.model.get_submodule("1")
    assert torch.equal(head.weight, old.weight[[1, 2, 0]])
    assert torch.equal(head.bias, old.bias[[1, 2, 0]])
    assert opened.order_of(["a", "b", "d"]) is None
    assert opened.order_of(["a", "b"]) is None


def test_outputs_without_names_are_taken_in_the_folders_order() -> None:
    assert network().order_of(["a", "b", "c"]) == [0, 1, 2]


def test_a_routed_heads_mask_goes_with_its_rows() -> None:
    model: Any = dk.convert(nn.Sequential(nn.Flatten(), nn.Linear(5, 3)), k=2)
    model[1].set_mask(torch.eye(3, 5) > 0)
    head = own_head(dk.open_network(model), [2, 0, 1])
    assert torch.equal(head.mask, model[1].mask[[2, 0, 1]])
    assert torch.equal(model[1].mask, torch.eye(3, 5) > 0)


def test_an_order_that_looks_wrong_is_told() -> None:
    labels = torch.arange(3).repeat(20)
    logits = nn.functional.one_hot(labels, 3).float()
    assert order_looks_wrong(logits, labels) is None
    said = order_looks_wrong(logits[:, [1, 2, 0]], labels)
    assert said is not None
    assert "right for 0.0 % of the images" in said
    assert "--classes" in said
    # A head that knows nothing looks wrong in every order.
    assert order_looks_wrong(torch.rand(60, 3, generator=torch.Generator().manual_seed(0)), labels) is None
    assert order_looks_wrong(torch.ones(60, 3), labels) is None
