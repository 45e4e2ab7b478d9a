"""The drop-in layers: their parameters, their state_dict, their mask."""

import pytest
import torch
from torch import nn

import dynamick as dk


def test_state_dict_moves_both_ways() -> None:
    for dense, dynamic in (
        (nn.Linear(6, 4), dk.DynamicLinear(6, 4, k=2)),
        (nn.Linear(6, 4, bias=False), dk.DynamicLinear(6, 4, k=2, bias=False)),
        (nn.Conv2d(6, 4, 3), dk.DynamicConv2d(6, 4, 3, k=2)),
    ):
        dynamic.load_state_dict(dense.state_dict())
        assert dynamic.state_dict().keys() == dense.state_dict().keys()
        dense.load_state_dict(dynamic.state_dict())
        assert torch.equal(dense.weight, dynamic.weight)


def test_initialisation_is_the_dense_layers() -> None:
    torch.manual_seed(0)
    dense = nn.Linear(6, 4)
    torch.manual_seed(0)
    assert torch.equal(dk.DynamicLinear(6, 4, k=2).weight, dense.weight)


def test_a_mask_is_saved_and_loaded() -> None:
    layer = dk.DynamicLinear(6, 4, k=2, rule="exactly")
    mask = torch.rand(4, 6) > 0.5
    layer.set_mask(mask)
    fresh = dk.DynamicLinear(6, 4, k=2, rule="exactly")
    fresh.load_state_dict(layer.state_dict())
    x = torch.randn(9, 6)
    assert torch.equal(fresh(x), layer(x))
    routed = fresh.route(x).indices
    assert all(bool(mask[c, i]) for row in routed.tolist() for c, place in enumerate(row) for i in place if i >= 0)
    fresh.load_state_dict(nn.Linear(6, 4).state_dict())
    assert fresh.mask is None


def test_a_load_that_does_not_name_a_layer_leaves_its_mask() -> None:
    model = nn.Sequential(dk.DynamicLinear(7, 4, k=2), dk.DynamicConv2d(7, 4, 3, k=2))
    masks = [torch.rand(4, 7) > 0.5 for _ in model]
    for layer, mask in zip(model, masks, strict=True):
        layer.set_mask(mask)
    model.load_state_dict({}, strict=False)
    model.load_state_dict({"0.bias": torch.zeros(4)}, strict=False)
    assert torch.equal(model[0].mask, masks[0])
    model.load_state_dict({"0.weight": torch.zeros(4, 7)}, strict=False)
    assert model[0].mask is None
    assert torch.equal(model[1].mask, masks[1])


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(7, 4, dtype=torch.bool), r"size mismatch for 0\.mask"),
        (torch.zeros(4, dtype=torch.bool), r"size mismatch for 0\.mask"),
        (torch.zeros(4, 7), r"0\.mask: dtype torch\.float32; a mask is torch\.bool"),
        (torch.zeros(4, 7, dtype=torch.uint8), r"0\.mask: dtype torch\.uint8; a mask is torch\.bool"),
        ("no tensor", r'"0\.mask", expected torch\.Tensor'),
    ],
)
def test_a_saved_mask_of_another_shape_or_type_is_refused(wrong: object, message: str, masked: bool, assign: bool) -> None:
    model = nn.Sequential(dk.DynamicLinear(7, 4, k=2))
    mask = torch.rand(4, 7) > 0.5
    model[0].set_mask(mask if masked else None)
    x = torch.randn(3, 7)
    want = model(x)
    with pytest.raises(RuntimeError, match=message):
        model.load_state_dict({**model.state_dict(), "0.mask": wrong}, assign=assign)
    assert torch.equal(model(x), want)


def test_loading_a_mask_leaves_the_tensor_given_to_set_mask() -> None:
    layer, mask = dk.DynamicLinear(7, 4, k=2), torch.ones(4, 7, dtype=torch.bool)
    layer.set_mask(mask)
    layer.load_state_dict({**layer.state_dict(), "mask": ~mask})
    assert not layer.mask.any()
    assert bool(mask.all())


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"stride": 2, "padding": 1},
        {"padding": "same", "dilation": 2},
        {"groups": 2, "bias": False},
        {"padding": 2, "padding_mode": "reflect"},
        {"padding": (1, 2), "padding_mode": "circular", "stride": (2, 1)},
        {"dtype": torch.float64},
    ],
)
@pytest.mark.parametrize("routing", ["location", "map"])
def test_conv_takes_all_of_the_dense_layers_arguments(arguments: dict, routing: str) -> None:
    dense = nn.Conv2d(4, 6, (3, 2), **arguments)
    layer = dk.DynamicConv2d(4, 6, (3, 2), k=4, rule="exactly", routing=routing, **arguments)
    layer.load_state_dict(dense.state_dict())
    x = torch.randn(2, 4, 9, 8, dtype=arguments.get("dtype"))
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [0, -1, 2.5, "five"])
def test_k_is_checked_when_the_layer_is_made(k: object) -> None:
    with pytest.raises(ValueError, match="integer from 1 up"):
        dk.DynamicLinear(4, 2, k=k)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="integer from 1 up"):
        dk.DynamicConv2d(4, 2, 3, k=k)  # type: ignore[arg-type]


def test_says_what_it_is() -> None:
    assert "k=3, rule=exactly" in repr(dk.DynamicLinear(4, 2, k=3, rule="exactly"))
    assert "routing=map" in repr(dk.DynamicConv2d(4, 2, 3, routing="map"))


def test_exports() -> None:
    layer = dk.DynamicLinear(6, 4, k=2).eval()
    x = torch.randn(3, 6)
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = torch.randn(5, 6)
    assert torch.equal(exported.module()(x), layer(x))
