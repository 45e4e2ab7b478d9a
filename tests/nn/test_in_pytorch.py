"""The layers in what people do with layers: compile, export, trace, differentiate, copy, cast, move."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, vmap
from torch.nn.utils import prune

import dynamick as dk

LAYERS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "linear": (lambda **kw: dk.DynamicLinear(6, 4, k=2, **kw), (5, 6)),
    "exactly": (lambda **kw: dk.DynamicLinear(6, 4, k=2, rule="exactly", **kw), (5, 6)),
    "gradients": (lambda **kw: dk.DynamicLinear(6, 4, k=2, threshold="gradients", **kw), (5, 6)),
    "conv-1x1": (lambda **kw: dk.DynamicConv2d(6, 4, 1, k=2, **kw), (2, 6, 5, 4)),
    "conv-3x3": (lambda **kw: dk.DynamicConv2d(6, 4, 3, k=2, padding=1, **kw), (2, 6, 5, 4)),
    "conv-3x3-map": (lambda **kw: dk.DynamicConv2d(6, 4, 3, k=2, padding=1, routing="map", **kw), (2, 6, 5, 4)),
}
ALL = pytest.mark.parametrize("name", LAYERS)


def make(name: str, **options: Any) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    return layer(**options), torch.randn(shape)


def gradients(layer: Callable[[Tensor], Tensor], parameters: list[Tensor], x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *parameters])]


@ALL
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_break(name: str, dynamic: bool) -> None:
    torch.compiler.reset()  # what was compiled for other layers counts as recompilations
    layer, x = make(name)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for batch in (x, torch.cat([x, x])):
        ours, theirs = (gradients(each, list(layer.parameters()), batch) for each in (compiled, layer))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


@ALL
@pytest.mark.parametrize("strict", [False, True])
def test_exports_for_every_batch_size_and_comes_back_from_a_file(name: str, strict: bool) -> None:
    layer, x = make(name)
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    exported = torch.export.export(layer.eval(), (x,), dynamic_shapes=shapes, strict=strict)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    x = torch.cat([x, x + 1, x])
    torch.testing.assert_close(torch.export.load(file).module()(x), layer(x))


@ALL
def test_is_one_node_to_fx_so_that_feature_extractors_work(name: str) -> None:
    layer, x = make(name)
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU(), layer))
    assert torch.equal(traced(x), layer(x.relu()))
    targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    ours = (dk.functional.dynamic_linear, dk.functional.thresholded_linear, dk.functional.dynamic_conv2d)
    assert len(targets) == 1
    assert targets[0] in ours


@ALL
def test_vmap_over_inputs_and_over_weights(name: str) -> None:
    layer, x = make(name)
    parameters = dict(layer.named_parameters())
    stacked = {key: torch.stack([each, -each]) for key, each in parameters.items()}
    by_rows = vmap(lambda row: functional_call(layer, parameters, (row[None],))[0])(x)
    torch.testing.assert_close(by_rows, layer(x))
    by_weights = vmap(lambda some: functional_call(layer, some, (x,)))(stacked)
    torch.testing.assert_close(by_weights[1], functional_call(layer, {key: -each for key, each in parameters.items()}, (x,)))


@ALL
def test_gradients_sample_by_sample(name: str) -> None:
    layer, x = make(name)
    parameters = dict(layer.named_parameters())

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(layer, parameters, (row[None],)).square().sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0))
    for function in (per_sample, torch.compile(per_sample, fullgraph=True, backend="aot_eager")):
        found = function(parameters, x)
        for key in parameters:
            want = [torch.autograd.grad(layer(row[None]).square().sum(), layer.get_parameter(key))[0] for row in x]
            torch.testing.assert_close(found[key], torch.stack(want))


@ALL
def test_jacobians_and_hessians_are_autograds(name: str) -> None:
    layer, x = make(name)
    want = torch.autograd.functional.jacobian(layer, x)
    assert bool(want.any())
    torch.testing.assert_close(jacrev(layer)(x), want)
    torch.testing.assert_close(jacfwd(layer)(x), want)

    def loss(x: Tensor) -> Tensor:
        return layer(x).square().sum()

    torch.testing.assert_close(hessian(loss)(x), torch.autograd.functional.hessian(loss, x))


@ALL
def test_forward_mode_is_the_jacobian_along_a_direction(name: str) -> None:
    layer, x = make(name)
    direction = torch.randn_like(x)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction))).tangent
    torch.testing.assert_close(tangent, (jacrev(layer)(x) * direction).flatten(-x.ndim).sum(-1))


@ALL
def test_forward_mode_over_the_weight_is_reverse_mode(name: str) -> None:
    layer, x = make(name)

    def outputs(weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    weight = layer.weight.detach()
    want = jacrev(outputs)(weight)
    assert bool(want.any())
    torch.testing.assert_close(jacfwd(outputs)(weight), want)


@ALL
def test_what_is_traced_computes_and_trains_alike(name: str) -> None:
    layer, x = make(name)
    traced = torch.jit.trace(layer, x)
    for batch in (x, torch.cat([x, x])):
        ours, theirs = (gradients(each, list(layer.parameters()), batch) for each in (traced, layer))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


@ALL
def test_many_gradients_at_once_are_those_one_by_one(name: str) -> None:
    layer, x = make(name)
    x.requires_grad_()
    y = layer(x)
    inputs, outward = [x, *layer.parameters()], torch.randn(3, *y.shape)
    together = torch.autograd.grad(y, inputs, outward, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y, inputs, one, retain_graph=True) for one in outward]
    for batch, ones in zip(together, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(batch, torch.stack(ones))


@ALL
def test_second_gradients(name: str) -> None:
    layer, x = make(name, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(layer, x.double().requires_grad_())


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    layer, x = make(name, dtype=dtype)
    assert {each.dtype for each in gradients(layer, list(layer.parameters()), x.to(dtype))} == {dtype}


@pytest.mark.parametrize("name", LAYERS.keys() - {"gradients"})  # which computes as nn.Linear does
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_bit(name: str, dtype: torch.dtype) -> None:
    layer, x = make(name)
    want = gradients(layer, list(layer.parameters()), x)
    with torch.autocast("cpu", dtype):
        found = gradients(layer, list(layer.parameters()), x)
        assert layer(x.to(dtype)).dtype == torch.float32
    for one, other in zip(found, want, strict=True):
        assert torch.equal(one, other)


@ALL
def test_copies_pickles_and_moves_with_its_mask(name: str) -> None:
    layer, x = make(name)
    layer.set_mask(torch.rand(layer.weight.shape[:2]) > 0.3)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), nn.DataParallel(layer)):
        assert torch.equal(twin(x), layer(x))
    wide = copy.deepcopy(layer).double()
    assert wide.mask.dtype == torch.bool
    torch.testing.assert_close(wide(x.double()).float(), layer(x))


@ALL
@pytest.mark.parametrize("where", ["meta", "fake"])
def test_shapes_without_data(name: str, where: str) -> None:
    real, x = make(name)
    with FakeTensorMode() if where == "fake" else torch.device("meta"):
        layer, x = make(name)
        x = x.requires_grad_()
        y = layer(x)
        y.sum().backward()
    assert y.shape == real(torch.randn(x.shape)).shape
    assert x.grad is not None
    assert layer.weight.grad.shape == real.weight.shape


@ALL
def test_loads_onto_a_layer_made_without_memory(name: str) -> None:
    layer, x = make(name)
    empty, _ = make(name, device="meta")
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(empty(x), layer(x))


@ALL
@pytest.mark.parametrize(("want_x", "want_w"), [(True, False), (False, True), (False, False)])
def test_frozen_sides(name: str, want_x: bool, want_w: bool) -> None:
    layer, x = make(name)
    y = layer.requires_grad_(want_w)(x.requires_grad_(want_x))
    assert y.requires_grad == (want_x or want_w)
    if y.requires_grad:
        y.sum().backward()
    assert (x.grad is not None, layer.weight.grad is not None) == (want_x, want_w)


@ALL
def test_views_of_any_layout(name: str) -> None:
    layer, x = make(name)
    doubled = x.repeat_interleave(2, 1)
    views = [
        x[:1].expand(x.shape),
        doubled[:, ::2],
        torch._neg_view(x),
        x.flip(0),
        x.transpose(0, 1).contiguous().transpose(0, 1),
    ]
    for view in views:
        torch.testing.assert_close(layer(view), layer(view.clone(memory_format=torch.contiguous_format).resolve_neg()))


@ALL
def test_extreme_numbers(name: str) -> None:
    layer, x = make(name)
    exact = copy.deepcopy(layer).double()
    for scale in (1e-42, 1e-38, 1e30, 1e37):
        scaled = x * scale
        # Of the bias nothing would be left to see.
        ours, theirs = layer(scaled) - layer(x * 0), exact(scaled.double()) - exact(x.double() * 0)
        if scale > 1:
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=0)
        assert bool(ours.isfinite().all())


def test_subnormal_products_are_told_apart() -> None:
    x = torch.tensor([[1e-41, 3e-41, 2e-41]])
    route = dk.functional.dynamic_route(x, torch.ones(1, 3), 2)
    assert route.indices.tolist() == [[[1, 2]]]
    assert torch.equal(dk.functional.dynamic_linear(x, torch.ones(1, 3), k=2), (x[0, 1] + x[0, 2]).reshape(1, 1))


@ALL
@pytest.mark.parametrize("wrong", ["int", "double", "complex", "channels", "list"])
def test_what_it_cannot_take_is_said_in_one_line(name: str, wrong: str) -> None:
    layer, x = make(name)
    given = {"int": x.long(), "double": x.double(), "complex": x.cfloat(), "channels": x[:, :5], "list": x.tolist()}[wrong]
    with pytest.raises(TypeError if wrong == "list" else ValueError, match=r"^x: [^\n]+$"):
        layer(given)


def test_a_mask_of_another_shape_is_refused() -> None:
    layer = dk.DynamicLinear(6, 4)
    with pytest.raises(ValueError, match=r"^mask: shape \(4, 5\)"):
        layer.set_mask(torch.ones(4, 5))
    assert layer.mask is None


@pytest.mark.parametrize("bias", [True, False])
def test_no_inputs_at_all_leave_the_bias(bias: bool) -> None:
    layer = dk.DynamicLinear(0, 3, bias=bias)
    x = torch.zeros(2, 0, requires_grad=True)
    y = layer(x)
    assert torch.equal(y, layer.bias.expand(2, 3) if bias else torch.zeros(2, 3))
    assert dk.DynamicLinear(3, 0)(torch.zeros(2, 3)).shape == (2, 0)


def test_checkpointing_hooks_and_pytorchs_own_pruning() -> None:
    layer, x = make("linear")
    seen: list[Tensor] = []
    layer.register_full_backward_hook(lambda module, gx, gy: seen.append(gx[0]))
    want = gradients(layer, [layer.weight], x)
    again = gradients(lambda x: torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False), [layer.weight], x)
    for one, other in zip(again, want, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(seen[0], want[1])
    pruned = prune.l1_unstructured(copy.deepcopy(layer), "weight", 0.5)
    assert int((pruned.weight == 0).sum()) == 12
    assert torch.equal(pruned(x), dk.functional.dynamic_linear(x, pruned.weight, pruned.bias, 2))


def test_routes_of_some_classes_compile_without_a_break() -> None:
    layer, x = make("linear")
    compiled = torch.compile(lambda x: layer.route(x, [3, 1]), fullgraph=True, backend="aot_eager")
    ours, theirs = compiled(x), layer.route(x, [3, 1])
    assert torch.equal(ours.indices, theirs.indices)
    torch.testing.assert_close(ours.products, theirs.products)
