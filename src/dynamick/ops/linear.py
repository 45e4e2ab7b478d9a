"""The linear map, and the registered operator `dynamick::dynamic_linear`: schema, fake, autograd.

The operator gives the routes, by one of the implementations. An implementation that has only sums is called without it.
"""

from typing import Any

import torch
from torch import Tensor

from dynamick.ops import torch_internals
from dynamick.ops.batching import call_batched
from dynamick.ops.registry import compute_dtype, select, select_for_routes

RULES = ("at_most", "exactly")


def dynamic_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, k: int, rule: str, implementation: str | None
) -> tuple[Tensor, Tensor | None]:
    """Y_c = sum of the routed products of c, plus b_c (Algorithm 2).

    Args:
        x, weight, bias, mask, k, rule, implementation: as in `dynamic_linear_routed`.

    Returns:
        Outputs (B, O) in x's dtype, and the routed indices (B, O, min(k, M)), or None if they were not formed.
    """
    served = select(implementation, x, weight)
    if torch_internals.exports_to_onnx():
        return _in_plain_operators(x, weight, bias, mask, k, rule), None
    if torch_internals.is_transformed() or torch_internals.has_tangent(x, weight, bias):
        return _by_torch_func(x, weight, bias, mask, k, rule, implementation)
    if served.sum is None or x.dtype == torch.float64:
        return dynamic_linear_routed(x, weight, bias, mask, k, rule, implementation)
    return served.sum(x, weight, bias, mask, k, rule).to(x.dtype), None


def _in_plain_operators(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, k: int, rule: str) -> Tensor:
    """The same in operators that every runtime of ONNX has. What is routed beside equal products does not change a sum."""
    dtype = compute_dtype(x.dtype)
    products = x.to(dtype)[:, None] * weight.to(dtype)
    if rule == "at_most":
        products = products.clamp(min=0)
    if mask is not None:
        products = torch.where(mask, products, 0 if rule == "at_most" else -torch.inf)
    values = products.topk(min(k, weight.shape[1])).values
    return add_bias(torch.where(values == -torch.inf, 0, values).sum(-1), bias).to(x.dtype)


def add_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    """Sums (B, O) and the bias (O,), in the sums' dtype."""
    return y if bias is None else y + bias.to(y.dtype)


def is_differentiated(*inputs: Tensor | None) -> bool:
    """Whether torch.func's grad or jvp (or what is built from them), or forward-mode differentiation, follows one of these.

    While torch.compile traces, it cannot look that deep. Then any transform counts as one.
    """
    if torch_internals.is_transformed() and (torch.compiler.is_compiling() or any(map(torch_internals.is_followed, inputs))):
        return True
    return torch_internals.has_tangent(*inputs)


def _by_torch_func(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, k: int, rule: str, implementation: str | None
) -> tuple[Tensor, Tensor]:
    """The same from constant routes in PyTorch's own operators: torch.func sees no derivative of a registered operator."""
    _, indices = dynamic_linear_routed(x.detach(), weight.detach(), None, mask, k, rule, implementation)
    y = routed_products(x, weight, indices).sum(-1)
    return add_bias(y, bias).to(x.dtype), indices


def routed_products(x: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    """The products at routed indices (B, O, K), differentiable, in float32 (float64 where x is); 0 where nothing is routed."""
    dtype, routed = compute_dtype(x.dtype), indices >= 0
    place = indices.clamp(min=0)
    # Each factor is set to 0 by itself: the derivative of an infinite product that is not routed would be 0 times infinity.
    x_BOK, w_BOK = _inputs_at(place, x.to(dtype)), _weights_at(place, weight.to(dtype))
    return torch.where(routed, x_BOK, 0) * torch.where(routed, w_BOK, 0)


def _inputs_at(place: Tensor, x: Tensor) -> Tensor:
    """The inputs (B, M) at some places (B, O, K). An expanded (B, O, M) would have a derivative of that size."""
    return x.gather(1, place.flatten(1)).reshape(place.shape)


def _weights_at(place: Tensor, weight: Tensor) -> Tensor:
    """The weights (O, M) at some places (B, O, K)."""
    place_OBK = place.transpose(0, 1)
    return weight.gather(1, place_OBK.flatten(1)).reshape(place_OBK.shape).transpose(0, 1)


@torch.library.custom_op("dynamick::dynamic_linear", mutates_args=())
def dynamic_linear_routed(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, k: int, rule: str, implementation: str | None
) -> tuple[Tensor, Tensor]:
    """Y_c = sum of the routed products of c, plus b_c (Algorithm 2).

    Args:
        x: inputs, shape (B, M).
        weight: shape (O, M), of x's dtype.
        bias: shape (O,) or None.
        mask: boolean, shape (O, M), False where a connection is pruned and may not be routed; or None.
        k: how many products a class routes at most.
        rule: `at_most` or `exactly`.
        implementation: a registered name, or None for the preferred one.

    Returns:
        Outputs (B, O) in x's dtype, and the routed indices (B, O, min(k, M)), int64, -1 where nothing is routed.
    """
    route = select_for_routes(implementation, x, weight).route
    assert route is not None
    products, indices = route(x, weight, mask, k, rule)
    y = products.sum(-1)
    return add_bias(y, bias).to(x.dtype), indices


@dynamic_linear_routed.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, k: int, rule: str, implementation: str | None
) -> tuple[Tensor, Tensor]:
    B, O, M = x.shape[0], weight.shape[0], weight.shape[1]
    width = torch.sym_min(k, M)
    return x.new_empty(B, O), x.new_empty(B, O, width, dtype=torch.int64)


@dynamic_linear_routed.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    return call_batched(dynamic_linear_routed, in_dims, arguments)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, *_ = inputs
    indices = output[1]
    ctx.save_for_backward(x, weight, indices)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.mark_non_differentiable(indices)


def _backward(ctx: Any, gy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, indices = ctx.saved_tensors
    gx, gw = routed_gradients(gy, x, weight, indices, ctx.needs_input_grad[0], ctx.needs_input_grad[1])
    gb = gy.to(compute_dtype(x.dtype)).sum(0).to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
    return gx, gw, gb, None, None, None, None


def routed_gradients(
    gy: Tensor, x: Tensor, weight: Tensor, indices: Tensor, want_x: bool, want_w: bool
) -> tuple[Tensor | None, Tensor | None]:
    """dY_c/dW_ci = x_i and dY_c/dx_i = W_ci for i in R^c, 0 elsewhere; memory grows as B*O*K.

    Written in differentiable PyTorch, so that a second derivative works: the routes are constant, and the rest is bilinear.

    Args:
        gy: the gradient of the outputs, shape (B, O).
        x: inputs, shape (B, M).
        weight: shape (O, M).
        indices: the routed inputs, shape (B, O, K), -1 where nothing is routed.
        want_x, want_w: which gradients to form.

    Returns:
        The gradients of x and weight in their dtypes, or None for what is not wanted.
    """
    dtype = compute_dtype(x.dtype)
    (B, O, K), M = indices.shape, x.shape[1]
    routed = indices >= 0
    place = indices.clamp(min=0)
    gy_BOK = torch.where(routed, gy.to(dtype)[:, :, None], 0)
    gx = gw = None
    if want_x:
        parts = gy_BOK * torch.where(routed, _weights_at(place, weight.to(dtype)), 0)
        gx = x.new_zeros(B, M, dtype=dtype).scatter_add(1, place.reshape(B, O * K), parts.reshape(B, O * K)).to(x.dtype)
    if want_w:
        parts = gy_BOK * torch.where(routed, _inputs_at(place, x.to(dtype)), 0)
        by_class = place.transpose(0, 1).reshape(O, B * K)
        gw = weight.new_zeros(O, M, dtype=dtype).scatter_add(1, by_class, parts.transpose(0, 1).reshape(O, B * K))
        gw = gw.to(weight.dtype)
    return gx, gw


dynamic_linear_routed.register_autograd(_backward, setup_context=_setup_context)


def keep_for_sums(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """What a backward pass needs of an operator (x, weight, mask, k, rule): its inputs, and all results but the first."""
    x, weight, mask, ctx.k, ctx.rule = inputs
    ctx.save_for_backward(x, weight, mask, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def sum_gradients(operator: Any, ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass of such an operator. `operator` takes (gy, x, weight, mask, *kept, k, rule, want_x, want_w)."""
    x, weight, mask, *kept = ctx.saved_tensors
    want_x, want_w = ctx.needs_input_grad[:2]
    if torch.is_grad_enabled() or torch_internals.is_batched(gy):
        # A second derivative may be needed: form the routes again and use operators that PyTorch differentiates and batches.
        _, indices = dynamic_linear_routed(x.detach(), weight.detach(), None, mask, ctx.k, ctx.rule, "chunked")
        gx, gw = routed_gradients(gy, x, weight, indices, want_x, want_w)
    else:
        gx, gw = operator(gy, x, weight, mask, *kept, ctx.k, ctx.rule, want_x, want_w)
    return gx if want_x else None, gw if want_w else None, None, None, None


def unfilled_gradients(gy: Tensor, x: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """Tensors of the shapes that such an `operator` returns: without elements for what is not wanted."""
    want_x, want_w = others[-2:]
    return x.new_empty(x.shape if want_x else (0,)), weight.new_empty(weight.shape if want_w else (0,))
