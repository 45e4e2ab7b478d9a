"""Pruning removes what no image routes, and changes no logit."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import dynamick as dk
from dynamick.training import prune


@pytest.mark.parametrize("rule", ["at_most", "exactly"])
def test_prune_removes_what_no_image_routes(rule: str) -> None:
    torch.manual_seed(0)
    model = dk.models.create("res8-d2a", num_classes=4, width=4, stem="compact", rule=rule).eval()
    images = model.preprocessing(torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8))
    before = copy.deepcopy(model)
    report = prune(model, images.split(7))
    with torch.no_grad():
        features = before.features(images)
        products = features[:, None] * before.fc.weight
        routed = torch.zeros_like(before.fc.weight, dtype=torch.bool)
        for b in range(50):
            for c in range(4):
                order = sorted(range(16), key=lambda i, b=b, c=c: (-products[b, c, i].item(), i))[:2]
                for i in order:
                    routed[c, i] |= rule == "exactly" or bool(products[b, c, i] > 0)
        assert torch.equal(model.fc.weight != 0, routed & (before.fc.weight != 0))
        assert torch.equal(model.fc(features), before.fc(features))
    assert (report.kept, report.total, report.images, report.changed) == (int(routed.sum()), 64, 50, 0)
    with pytest.raises(ValueError, match="a dense head routes nothing"):
        prune(dk.models.create("res8", width=4), [images])
    for nothing in ([], [images[:0]]):
        with pytest.raises(dk.InputError, match=r"^batches: no images"):
            prune(before, nothing)
    assert before.fc.mask is None


@pytest.mark.parametrize("k", [5, 20])
def test_prune_counts_no_logit_that_is_only_summed_in_another_order(k: int) -> None:
    """Pruned to K weights a class, a head is summed by the kernel's shortest way; before, by another."""
    torch.manual_seed(0)
    model = dk.models.create(f"res8-d{k}a", 10, "patch", 16)
    kept = torch.rand(10, 64).topk(k, 1).indices
    with torch.no_grad():
        model.fc.weight.copy_((torch.rand(10, 64) * 1e-3).scatter_(1, kept, torch.rand(10, k) + 0.1))
    model.features = lambda x: x.flatten(1)  # type: ignore[method-assign]
    features = torch.rand(400, 64) * 0.5 + 0.5
    assert prune(model, [features]).changed == 0
    assert int((model.fc.weight != 0).sum()) == 10 * k


def test_any_converted_network_is_pruned_and_its_units_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()
    images = torch.rand(40, 3, 9, 9)
    plain = dk.convert(copy.deepcopy(net), k=1)
    before = plain(images)
    found = dk.prune(plain, images.split(7))
    assert torch.equal(plain(images), before)
    assert (found.changed, found.units) == (0, None)
    # Of 30 units 4 classes route at most one each for an image.
    with_units = dk.convert(net, k=1, units=30, example=images[:2]).eval()
    before = with_units(images)
    found = dk.prune(with_units, images.split(7))
    torch.testing.assert_close(with_units(images), before)
    assert found.changed == 0
    layer: Any = dk.nn.unit_layer(with_units)
    assert found.units == layer.conv.out_channels == with_units[4].in_features < 30
    assert (with_units[4].weight != 0).any(0).all()
