"""Heads that train: how each is named, made, told from its layer, and trained."""

import pytest
import torch
from torch import nn

import dynamick as dk
from dynamick import models
from dynamick.models.heads import heads, routing_of
from dynamick.models.heads.l1 import soft_threshold_


@pytest.mark.parametrize("name", heads())
def test_a_head_makes_its_layer_and_knows_it_again(name: str) -> None:
    head = heads()[name]
    layer = head.layer(6, 4, 2 if head.takes_k else None, "at_most")
    assert head.holds(layer)
    assert layer(torch.rand(3, 6)).shape == (3, 4)
    parsed = models.parse(str(models.ModelName(8, name, 2 if head.takes_k else None)))
    assert parsed.kind == head


def test_what_figures_and_explanations_are_told() -> None:
    names = ("res8", "res8-l1", "res8-d5a", "res8-d5g", "capsnet-em")
    said = [(each.label, each.routed) for each in map(models.parse, names)]
    assert said == [("dense", None), ("l1", None), ("d5", 5), ("gradients", None), ("capsules-em", None)]
    layer = dk.DynamicLinear(6, 4, 2, rule="exactly")
    layer.set_mask(torch.ones(4, 6, dtype=torch.bool))
    assert (routing_of(layer).k, routing_of(layer).rule) == (2, "exactly")
    assert torch.equal(routing_of(layer).mask, layer.mask)
    layer.threshold = "gradients"
    assert (routing_of(layer).k, routing_of(layer).rule) == (None, "dense")
    assert torch.equal(routing_of(layer).mask, layer.mask)
    assert routing_of(nn.Conv2d(6, 4, 1)) == routing_of(nn.Linear(6, 4))


def test_the_name_says_how_a_plain_layer_was_trained() -> None:
    model = models.create("res8-l1", width=4)
    assert models.head_of(model).name == "l1"
    dk.convert(model, k=2)
    assert models.head_of(model).name == "dynamic"
    assert models.head_of(dk.revert(models.create("res8-d2a", width=4))).name == "dense"
    assert models.head_of(models.create("capsnet-em", width=8)).name == "capsules"


def test_soft_threshold_is_the_proximal_step() -> None:
    """It minimises 1/2 (v - w)^2 + a |v|, found here on a grid."""
    weight = torch.tensor([-2.0, -0.3, 0.0, 0.1, 1.5])
    grid = torch.linspace(-3, 3, 60_001)
    want = [grid[(0.5 * (grid - w) ** 2 + 0.4 * grid.abs()).argmin()] for w in weight]
    soft_threshold_(weight, 0.4)
    torch.testing.assert_close(weight, torch.stack(want), rtol=0, atol=2e-4)
