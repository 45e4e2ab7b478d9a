"""The registered operator `dynamick::dynamic_conv2d`: Dynamic-K routing among the input channels of a convolution.

The product of input channel i for output c is (W_ci * X_i)(h, w), the part of the convolution that the channel contributes.
By location: products are formed for a block of images or outputs at a time and not kept; the backward pass forms them again.
By map: an image's outputs are a plain convolution with its routed filters alone.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamick.ops import conv_cpu
from dynamick.ops.batching import call_batched
from dynamick.ops.chunked import largest_allowed, sums_stay_finite
from dynamick.ops.conv_products import SCHEMA, Products, Settings, all_products
from dynamick.ops.registry import compute_dtype, without_autocast

ROUTINGS = ("location", "map")
INSERTED = 16
"""Up to this many products an output, a CPU sorts by insertion: PyTorch's topk is several times slower there."""
TILE = 2**16
"""Insertion takes this many columns at a time: the K rows of them stay in the processor's cache."""


@torch.library.custom_op(
    "dynamick::dynamic_conv2d",
    mutates_args=(),
    schema=f"(Tensor x, Tensor weight, Tensor? bias, Tensor? mask, {SCHEMA}) -> (Tensor, Tensor)",
)
def dynamic_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, *settings: Any
) -> tuple[Tensor, Tensor]:
    """A convolution in which every output channel sums only the k input channels of its group that speak most for it.

    Args:
        x: inputs, shape (B, C, H, W).
        weight: shape (O, C / groups, kh, kw), of x's dtype.
        bias: shape (O,) or None.
        mask: boolean, shape (O, C / groups), False where a connection is pruned; or None.
        settings: those of `Settings`, one after the other.

    Returns:
        Outputs (B, O, H', W'), channels-last where x is, and a tensor that finds the routed channels again. By location:
        the largest product that is not routed, (B, O, H', W'), float32 or float64; never below 0 (`at_most`); NaN where it
        equals a routed product or a number is not finite. By map: the routed channels within the group, int64,
        (B, O, min(k, C / groups)), -1 where nothing is routed.
    """
    conv = Products(x, weight, mask, Settings(*settings))
    # Switched off here, inside the operator: an exported program would lose a context around the call.
    with torch.autocast(x.device.type, enabled=False):
        if done := conv_cpu.forward(x, weight, bias, mask, conv.settings):
            return done[0].to(x.dtype, memory_format=memory_format(x)), done[1]
        y, kept = _by_location(conv) if conv.settings.routing == "location" else _by_map(conv)
    if bias is not None:
        y += bias.to(y.dtype)[:, None, None]
    return y.to(x.dtype, memory_format=memory_format(x)), kept


@dynamic_conv2d.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, *settings: Any) -> tuple[Tensor, Tensor]:
    how, B, O = Settings(*settings), x.shape[0], weight.shape[0]
    H, W = how.output_size(x.shape[2:], weight.shape[2:])
    y = torch.empty(B, O, H, W, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
    if how.routing == "location":
        return y, x.new_empty(B, O, H, W, dtype=compute_dtype(x.dtype))
    return y, x.new_empty(B, O, torch.sym_min(how.k, weight.shape[1]), dtype=torch.int64)


@dynamic_conv2d.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    return call_batched(dynamic_conv2d, in_dims, arguments)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, mask, *settings = inputs
    ctx.save_for_backward(x, weight, mask, output[1])
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.settings = Settings(*settings)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, gy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, mask, kept = ctx.saved_tensors
    want_x, want_w, want_b = ctx.needs_input_grad[:3]
    gx = gw = gb = None
    if (want_x or want_w) and torch.is_grad_enabled():
        # A second derivative may be needed: form the same sums again in operators that PyTorch differentiates.
        with without_autocast(x):
            y = from_all_products(x, weight, None, mask, ctx.settings)
            gradients = iter(torch.autograd.grad(y, [x] * want_x + [weight] * want_w, gy, create_graph=True))
        gx, gw = next(gradients) if want_x else None, next(gradients) if want_w else None
    elif want_x or want_w:
        gx, gw = dynamic_conv2d_backward(gy, x, weight, mask, kept, *ctx.settings, want_x, want_w)
    if want_b:
        gb = gy.sum((0, 2, 3), dtype=compute_dtype(x.dtype)).to(ctx.bias_dtype)
    return gx if want_x else None, gw if want_w else None, gb, None, *[None] * len(ctx.settings)


@torch.library.custom_op(
    "dynamick::dynamic_conv2d_backward",
    mutates_args=(),
    schema=f"(Tensor gy, Tensor x, Tensor weight, Tensor? mask, Tensor kept, {SCHEMA}, bool want_x, bool want_w)"
    " -> (Tensor, Tensor)",
)
def dynamic_conv2d_backward(
    gy: Tensor, x: Tensor, weight: Tensor, mask: Tensor | None, kept: Tensor, *settings_and_wanted: Any
) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight: the convolution's own, over the routed channels only.

    A gradient that is not wanted is a tensor without elements. Inputs that are not finite may also reach gradients of weights
    that are not routed.
    """
    *settings, want_x, want_w = settings_and_wanted
    conv = Products(x, weight, mask, Settings(*settings))
    with torch.autocast(x.device.type, enabled=False):
        done = conv_cpu.gradients(gy, x, weight, mask, kept, conv.settings, want_x, want_w)
        gradients = _location_gradients if conv.settings.routing == "location" else _map_gradients
        gx, gw = done or gradients(conv, gy, kept, want_x, want_w)
    gx = x.new_empty(0) if gx is None else gx.to(x.dtype, memory_format=memory_format(x))
    return gx, weight.new_empty(0) if gw is None else gw.to(weight.dtype)


@dynamic_conv2d_backward.register_fake
def _(
    gy: Tensor, x: Tensor, weight: Tensor, mask: Tensor | None, kept: Tensor, *settings_and_wanted: Any
) -> tuple[Tensor, Tensor]:
    *_, want_x, want_w = settings_and_wanted
    gx = torch.empty_like(x, memory_format=memory_format(x)) if want_x else x.new_empty(0)
    return gx, torch.empty_like(weight, memory_format=torch.contiguous_format) if want_w else weight.new_empty(0)


dynamic_conv2d.register_autograd(_backward, setup_context=_setup_context)


@dynamic_conv2d_backward.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    return call_batched(dynamic_conv2d_backward, in_dims, arguments)


@torch.library.custom_op("dynamick::route_products", mutates_args=())
def route_products(p: Tensor, mask: Tensor | None, k: int, rule: str) -> Tensor:
    """The routed ones of some products: indices (..., O, k), int64, -1 where nothing is routed.

    Args:
        p: products, shape (..., O, I).
        mask: boolean, shape (O, I), False where a connection is pruned; or None.
        k: at most I.
        rule: `at_most` or `exactly`.
    """
    return largest_allowed(p, mask, k, rule)[1]


@route_products.register_fake
def _(p: Tensor, mask: Tensor | None, k: int, rule: str) -> Tensor:
    return p.new_empty(*p.shape[:-1], k, dtype=torch.int64)


@route_products.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
    (index,), (dim,) = call_batched(lambda *one: (route_products(*one),), in_dims, arguments)
    return index, dim


def from_all_products(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, how: Settings) -> Tensor:
    """The outputs of `dynamic_conv2d`, with constant routes, in PyTorch's own operators: these have every kind of derivative.

    It holds all products at once, B * O * C * H' * W' numbers.
    """
    with without_autocast(x):
        p_BOIL = all_products(x, weight, how)
    p, k = p_BOIL.detach(), min(how.k, weight.shape[1])
    if how.routing == "location":
        index_BOKL = route_products(p.permute(0, 3, 1, 2).contiguous(), mask, k, how.rule).permute(0, 2, 3, 1)
    else:
        votes = p if how.rule == "exactly" else p.clamp(min=0)
        index = route_products(votes.sum(-1), mask, k, how.rule)
        index_BOKL = index[..., None].expand(*index.shape, p.shape[-1])
    y = torch.where(index_BOKL >= 0, p_BOIL.gather(2, index_BOKL.clamp(min=0)), 0).sum(2)
    if bias is not None:
        y = y + bias.to(y.dtype)[:, None]
    y = y.unflatten(2, how.output_size(x.shape[2:], weight.shape[2:]))
    return y.to(x.dtype)


def memory_format(x: Tensor) -> torch.memory_format:
    """The format of the outputs: channels-last where the inputs are, as nn.Conv2d's."""
    _, C, H, W = x.shape
    # By its strides: under vmap, PyTorch does not answer whether a tensor is channels-last.
    last = C > 1 and H * W > 1 and x.stride()[1:] == (1, W * C, C)
    return torch.channels_last if last else torch.contiguous_format


def _by_location(conv: Products) -> tuple[Tensor, Tensor]:
    """Outputs without bias, and for each the largest product that is not routed; NaN where it equals a routed one."""
    y = torch.empty(conv.B, conv.O, *conv.size, dtype=conv.dtype, device=conv.x.device)
    left_out = torch.empty_like(y)
    finite = sums_stay_finite(conv.x, conv.weight, conv.I * conv.T)
    for block in conv.blocks():
        P_IN, allowed_IN = conv.of(block, conv.patches(block)), conv.allowed(block)
        sums, bound = _sums(P_IN, allowed_IN, conv.k, conv.settings.rule) if finite else _plain_sums(P_IN, allowed_IN, conv)
        for whole, part in ((y, sums), (left_out, bound)):
            view = conv.part(whole, block)
            view.copy_(part.view(view.shape))
    return y, left_out


def _sums(P_IN: Tensor, allowed_IN: Tensor | None, k: int, rule: str) -> tuple[Tensor, Tensor]:
    """The sum of each column's routed products, and the largest that is not routed; NaN where it equals a routed one."""
    if allowed_IN is not None:
        P_IN = P_IN.masked_fill(~allowed_IN, -torch.inf)
    floor = 0.0 if rule == "at_most" else -torch.inf
    top_KN = _largest(P_IN, k, floor)
    last, beyond = top_KN[k - 1], top_KN[k]
    tied = (last == beyond) & (beyond > floor)
    routed = top_KN[:k]
    if rule == "exactly" and allowed_IN is not None:
        routed = routed.where(routed > floor, 0)
    return routed.sum(0), beyond.masked_fill(tied, torch.nan)


def _plain_sums(P_IN: Tensor, allowed_IN: Tensor | None, conv: Products) -> tuple[Tensor, Tensor]:
    """The same for numbers that are not finite. There only the definition itself decides."""
    top, _ = largest_allowed(P_IN.t(), None if allowed_IN is None else allowed_IN.t(), conv.k, conv.settings.rule)
    return top.sum(-1), P_IN.new_full(P_IN.shape[1:], torch.nan)


def _largest(P_IN: Tensor, k: int, floor: float) -> Tensor:
    """The k + 1 largest numbers of each column, descending, (k + 1, N); floor where fewer are above it."""
    I, N = P_IN.shape
    if P_IN.device.type != "cpu" or k > INSERTED:
        top = P_IN.topk(min(k + 1, I), dim=0).values.clamp(min=floor)
        return F.pad(top, (0, 0, 0, k + 1 - top.shape[0]), value=floor)
    top_KN = P_IN.new_full((k + 1, N), floor)
    for start in range(0, N, TILE):
        tile = slice(start, start + TILE)
        places = top_KN[:, tile].unbind()
        spare, other = torch.empty_like(places[0]), torch.empty_like(places[0])
        for p in P_IN[:, tile].unbind():
            for place in places[:-1]:
                # The larger number stays, the smaller goes on to the next place.
                torch.minimum(place, p, out=spare)
                torch.maximum(place, p, out=place)
                p, spare, other = spare, other, spare
            torch.maximum(places[-1], p, out=places[-1])
    return top_KN


def _location_gradients(
    conv: Products, gy: Tensor, left_out: Tensor, want_x: bool, want_w: bool
) -> tuple[Tensor | None, Tensor | None]:
    gx = torch.zeros(conv.x.shape, dtype=conv.dtype, device=conv.x.device) if want_x else None
    gw = torch.zeros_like(conv.weight, memory_format=torch.contiguous_format) if want_w else None
    for block in conv.blocks():
        patches = conv.patches(block)
        P_IN = conv.of(block, patches)
        member_IN = _members(P_IN, conv.part(left_out, block).reshape(-1), conv.allowed(block), conv)
        gy_N = conv.part(gy, block).to(conv.dtype).reshape(-1)
        gp = torch.where(member_IN, gy_N, P_IN.new_zeros(()), out=P_IN).reshape(patches.shape[0], -1, conv.L)
        if gx is not None:
            conv.add_to_inputs(gx, block, torch.bmm(conv.filters(block).mT, gp))
        if gw is not None:
            conv.add_to_filters(gw, block, torch.bmm(gp, patches.mT))
    return gx, gw


def _members(P_IN: Tensor, left_out_N: Tensor, allowed_IN: Tensor | None, conv: Products) -> Tensor:
    """Which products are routed, boolean, (I, N)."""
    member_IN = P_IN.gt(left_out_N)
    if allowed_IN is not None:
        member_IN &= allowed_IN
    unsure = left_out_N.isnan().nonzero()[:, 0]
    if unsure.numel():
        allowed = None if allowed_IN is None else allowed_IN[:, unsure].t()
        _, index = largest_allowed(P_IN[:, unsure].t(), allowed, conv.k, conv.settings.rule)
        member_IN[:, unsure] = _one_hot(index, conv.I).t()
    return member_IN


def _one_hot(index: Tensor, channels: int) -> Tensor:
    """Which channels are among the indices of the last axis: boolean, (..., channels)."""
    member = torch.zeros(*index.shape[:-1], channels + 1, dtype=torch.bool, device=index.device)
    # Index -1 gets a place of its own, which is cut off.
    return member.scatter(-1, index.where(index >= 0, channels), True)[..., :channels]


def _by_map(conv: Products) -> tuple[Tensor, Tensor]:
    """Outputs without bias, and the routed channels, (B, O, k)."""
    index = largest_allowed(_votes(conv), conv.mask, conv.k, conv.settings.rule)[1]
    member_BOI = _one_hot(index, conv.I)
    y = torch.empty(conv.B, conv.O, *conv.size, dtype=conv.dtype, device=conv.x.device)
    if sums_stay_finite(conv.x, conv.weight, conv.I * conv.T):
        for b in range(conv.B):
            filters = _routed_filters(conv, member_BOI[b])
            x = conv.x[b : b + 1].to(conv.dtype)
            y[b : b + 1] = F.conv2d(x, filters, None, *conv.settings.geometry, conv.settings.groups)
        return y, index
    # A filter of zeros times an infinite input would be NaN.
    for block in conv.blocks():
        routed = conv.part(member_BOI, block).movedim(-1, 0)[..., None]
        p = conv.of(block, conv.patches(block)).reshape(*routed.shape[:-1], conv.L)
        view = conv.part(y, block)
        view.copy_(p.where(routed, 0).sum(0).view(view.shape))
    return y, index


def _votes(conv: Products) -> Tensor:
    """One vote a channel, (B, O, I): the sum over locations of its positive products, or of all."""
    votes = torch.empty(conv.B, conv.O, conv.I, dtype=conv.dtype, device=conv.x.device)
    # The sum of products is the product with the summed inputs, unless a number is not finite.
    factors = (conv.weight, conv.weight.new_ones(1))
    summed = conv.settings.rule == "exactly" and all(sums_stay_finite(conv.x, each, conv.L * conv.T) for each in factors)
    for block in conv.blocks():
        view, patches = conv.part(votes, block), conv.patches(block)
        if summed:
            sums = conv.of(block, patches.sum(-1, keepdim=True))
        else:
            P_IN = conv.of(block, patches)
            sums = (P_IN if conv.settings.rule == "exactly" else P_IN.clamp_(min=0)).reshape(-1, conv.L).sum(-1)
        view.copy_(sums.reshape(conv.I, *view.shape[:-1]).movedim(0, -1))
    return votes


def _routed_filters(conv: Products, member_OI: Tensor) -> Tensor:
    return conv.weight.masked_fill(~member_OI[..., None, None], 0)


def _map_gradients(
    conv: Products, gy: Tensor, index: Tensor, want_x: bool, want_w: bool
) -> tuple[Tensor | None, Tensor | None]:
    gx = torch.empty(conv.x.shape, dtype=conv.dtype, device=conv.x.device) if want_x else None
    gw = torch.zeros_like(conv.weight, memory_format=torch.contiguous_format) if want_w else None
    member_BOI = _one_hot(index, conv.I)
    geometry = (None, *conv.settings.geometry, False, [0, 0], conv.settings.groups, [want_x, want_w, False])
    for b in range(conv.B):
        one = slice(b, b + 1)
        tensors = (gy[one].to(conv.dtype), conv.x[one].to(conv.dtype), _routed_filters(conv, member_BOI[b]))
        gx_b, gw_b, _ = torch.ops.aten.convolution_backward(*tensors, *geometry)
        if gx is not None:
            gx[one] = gx_b
        if gw is not None:
            gw += gw_b.masked_fill(~member_BOI[b][..., None, None], 0)
    return gx, gw
