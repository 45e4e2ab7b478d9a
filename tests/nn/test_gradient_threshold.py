"""`threshold="gradients"`: a dense layer, but that only the K largest products' weights get a gradient from an input."""

import copy
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dynamick as dk
from dynamick import models


def chosen(x: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor | None, k: int, rule: str) -> torch.Tensor:
    """1 for each (sample, class, input) among the K largest products, by sorting one row after the other: (B, O, M)."""
    out = torch.zeros(len(x), *weight.shape, dtype=x.dtype)
    for b in range(len(x)):
        for c in range(len(weight)):
            products = [float(w) * float(each) for w, each in zip(weight[c], x[b], strict=True)]
            ranked = sorted(range(len(products)), key=lambda i: (-products[i], i))
            ranked = [i for i in ranked if mask is None or mask[c, i]]
            ranked = [i for i in ranked if rule == "exactly" or products[i] > 0]
            out[b, c, ranked[:k]] = 1
    return out


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 7)),
    k=st.integers(1, 8),
    rule=st.sampled_from(["at_most", "exactly"]),
    ties=st.booleans(),
    pruned=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 999),
)
def test_is_autograd_with_an_explicit_mask(
    sizes: tuple[int, int, int], k: int, rule: str, ties: bool, pruned: bool, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    B, O, M = sizes
    layer = dk.DynamicLinear(M, O, k, bias, rule, dtype=torch.float64, threshold="gradients")
    x = torch.randn(B, M, dtype=torch.float64)
    if ties:
        x = x.round()
        layer.weight.data = (2 * layer.weight.data).round()
    mask = torch.rand(O, M) > 0.3 if pruned else None
    layer.set_mask(mask)
    x.requires_grad_()
    upstream = torch.randn(B, O, dtype=torch.float64)

    w = layer.weight.detach().clone().requires_grad_()
    allowed = torch.ones(O, M, dtype=torch.float64) if mask is None else mask.double()
    keep = chosen(x.detach(), w.detach(), mask, k, rule)
    # Every (sample, class, input) has a weight of its own, so that each gradient can be kept or dropped.
    w_BOM = (w * allowed).expand(B, O, M)
    w_BOM = keep * w_BOM + (1 - keep) * w_BOM.detach()
    want = (w_BOM * x[:, None]).sum(2) + (layer.bias.detach() if bias else 0)
    want_x, want_w = torch.autograd.grad(want, (x, w), upstream)

    got = layer(x)
    got.backward(upstream)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(x.grad, want_x)
    torch.testing.assert_close(layer.weight.grad, want_w)
    if bias:
        torch.testing.assert_close(layer.bias.grad, upstream.sum(0))


@pytest.mark.parametrize("k", [6, 60])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6)])
def test_with_k_from_m_up_it_is_the_dense_layer(k: int, shape: tuple[int, ...]) -> None:
    dense = nn.Linear(6, 4)
    layer = dk.DynamicLinear(6, 4, k, rule="exactly", threshold="gradients")
    layer.load_state_dict(dense.state_dict())
    x = torch.randn(shape)
    for each in (dense, layer):
        each(x).square().sum().backward()
    torch.testing.assert_close(layer(x), dense(x))
    torch.testing.assert_close(layer.weight.grad, dense.weight.grad)
    torch.testing.assert_close(layer.bias.grad, dense.bias.grad)


def test_of_equal_products_the_lower_index_is_updated() -> None:
    layer = dk.DynamicLinear(4, 1, 2, threshold="gradients")
    layer.weight.data = torch.tensor([[1.0, 2.0, 1.0, 1.0]])
    layer(torch.tensor([[2.0, 1.0, 2.0, 2.0]])).sum().backward()
    assert layer.weight.grad.tolist() == [[2, 1, 0, 0]]


def test_is_the_dense_layer_to_the_bit_in_evaluation_and_without_gradients() -> None:
    dense, layer = nn.Linear(50, 7), dk.DynamicLinear(50, 7, 3, threshold="gradients")
    layer.load_state_dict(dense.state_dict())
    x = torch.randn(9, 50)
    assert torch.equal(layer(x), dense(x))
    assert torch.equal(layer.eval()(x), dense(x))
    with torch.no_grad():
        assert torch.equal(layer(x), dense(x))


def test_the_products_of_a_batch_are_never_all_in_memory() -> None:
    layer, x = dk.DynamicLinear(40, 30, 2, threshold="gradients"), torch.randn(50, 40)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.numel()) or each, lambda each: each):
        layer(x)
    assert max(kept) < 50 * 30 * 40


def test_autocast_keeps_the_dense_layers_dtype() -> None:
    layer, x = dk.DynamicLinear(8, 3, 2, threshold="gradients"), torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert 0 < (layer.weight.grad != 0).sum() <= 4 * 3 * 2


def test_training_with_it_moves_no_weight_that_is_never_routed() -> None:
    layer = dk.DynamicLinear(6, 2, 1, rule="exactly", threshold="gradients")
    x = torch.rand(20, 6)
    before = layer.weight.detach().clone()
    used = torch.zeros(2, 6, dtype=torch.bool)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    for _ in range(5):
        routed = layer.route(x).indices[..., 0]
        used |= torch.stack([torch.bincount(routed[:, c], minlength=6) > 0 for c in range(2)])
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
    assert torch.equal(layer.weight[~used], before[~used])
    assert not torch.equal(layer.weight[used], before[used])


def test_conversion_copies_and_checkpoints_keep_it(tmp_path: Path) -> None:
    layer = dk.DynamicLinear(6, 4, 2, threshold="gradients")
    assert "threshold=gradients" in repr(layer)
    assert copy.deepcopy(layer).threshold == dk.convert(layer, k=3).threshold == "gradients"
    assert type(dk.nn.revert(layer)) is nn.Linear
    assert dk.DynamicLinear(6, 4).threshold == "activations"
    model = models.create("res8-d3g", 5, "patch", 4)
    assert (model.fc.k, model.fc.threshold) == (3, "gradients")
    dk.save(model, tmp_path / "model.safetensors")
    again = dk.load(tmp_path / "model.safetensors")
    assert (again.config["model"], again.fc.k, again.fc.threshold) == ("res8-d3g", 3, "gradients")
    assert str(models.parse("res18-d5g")) == "res18-d5g"


def test_what_is_not_finite_reaches_the_output() -> None:
    layer = dk.DynamicLinear(3, 2, 1, threshold="gradients")
    assert layer(torch.tensor([[1.0, math.nan, 0.0]])).isnan().all()


def test_other_thresholds_are_refused_in_one_line() -> None:
    with pytest.raises(dk.InputError, match=r"^threshold: 'weights' [^\n]+$"):
        dk.DynamicLinear(4, 2, threshold="weights")


def test_an_overflow_in_half_precision_is_no_nan() -> None:
    layer = dk.DynamicLinear(4, 1, 2, bias=False, dtype=torch.float16, threshold="gradients")
    layer.weight.data = torch.tensor([[200.0, 200.0, -200.0, -100.0]], dtype=torch.float16)
    x = torch.full((1, 4), 200.0, dtype=torch.float16)
    y = layer(x)
    assert y.item() == 20000
    y.sum().backward()
    assert layer.weight.grad.tolist() == [[200, 200, 0, 0]]
    inputs = torch.tensor([[math.inf, 1.0, 1.0]])
    layer = dk.DynamicLinear(3, 2, 1, threshold="gradients")
    with torch.no_grad():
        layer.weight.copy_(torch.ones(2, 3))
        want = layer(inputs)
    assert torch.equal(layer(inputs), want)
    assert want.isposinf().all()
