"""The registered operator `dynamick::dynamic_conv2d`: Dynamic-K routing among the input channels of a convolution.

The product of input channel i for output c is (W_ci * X_i)(h, w), the part of the convolution that the channel contributes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from dynamick.ops.chunked import largest_allowed, rows_per_chunk
from dynamick.ops.registry import compute_dtype

ROUTINGS = ("location", "map")


@torch.library.custom_op("dynamick::dynamic_conv2d", mutates_args=())
def dynamic_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    k: int,
    rule: str,
    routing: str,
) -> tuple[Tensor, Tensor]:
    """A convolution in which every output channel sums only the k input channels of its group that speak most for it.

    Args:
        x: inputs, shape (B, C, H, W).
        weight: shape (O, C / groups, kh, kw), of x's dtype.
        bias: shape (O,) or None.
        mask: boolean, shape (O, C / groups), False where a connection is pruned; or None.
        stride: as in torch.nn.functional.conv2d, two numbers; padding and dilation likewise.
        groups: k counts per group.
        rule: `at_most` or `exactly`.
        routing: `location` routes each output location by itself. `map` routes whole maps: the vote of a channel is the
            sum over locations of its positive products (`at_most`) or of all of them (`exactly`).

    Returns:
        Outputs (B, O, H', W'), and the routed indices within the group, int64, -1 where nothing is routed: of shape
        (B, O, min(k, C / groups), H', W') by location, (B, O, min(k, C / groups)) by map.
    """
    dtype = compute_dtype(x.dtype)
    H, W = _output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    B, O, I = x.shape[0], weight.shape[0], weight.shape[1]
    width = min(k, I)
    spatial = (H, W) if routing == "location" else ()
    y = x.new_empty(B, O, H, W)
    indices = torch.empty(B, O, width, *spatial, dtype=torch.int64, device=x.device)
    bias_O11 = 0 if bias is None else bias.to(dtype)[:, None, None]
    for rows in _chunks(B, O * I * H * W, dtype):
        p_bOIHW = _products(x[rows].to(dtype), weight.to(dtype), stride, padding, dilation, groups)
        index = _route(p_bOIHW, mask, width, rule, routing)
        kept = torch.where(_membership(index, I, routing), p_bOIHW, 0)
        y[rows] = (kept.sum(2) + bias_O11).to(x.dtype)
        indices[rows] = index
    return y, indices


@dynamic_conv2d.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    k: int,
    rule: str,
    routing: str,
) -> tuple[Tensor, Tensor]:
    H, W = _output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    width = torch.sym_min(k, weight.shape[1])
    spatial = (H, W) if routing == "location" else ()
    y = x.new_empty(x.shape[0], weight.shape[0], H, W)
    return y, x.new_empty(x.shape[0], weight.shape[0], width, *spatial, dtype=torch.int64)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, _, stride, padding, dilation, groups, _, _, routing = inputs
    indices = output[1]
    ctx.save_for_backward(x, weight, indices)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.arguments = (stride, padding, dilation, groups, routing)
    ctx.mark_non_differentiable(indices)


def _backward(ctx: Any, gy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, indices = ctx.saved_tensors
    gx, gw = dynamic_conv2d_backward(gy.contiguous(), x, weight, indices, *ctx.arguments)
    gb = gy.sum((0, 2, 3), dtype=compute_dtype(x.dtype)).to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
    return gx, gw, gb, *[None] * 8


@torch.library.custom_op("dynamick::dynamic_conv2d_backward", mutates_args=())
def dynamic_conv2d_backward(
    gy: Tensor,
    x: Tensor,
    weight: Tensor,
    indices: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    routing: str,
) -> tuple[Tensor, Tensor]:
    """The gradients for x and weight: the convolution's own, over the routed channels only."""
    dtype = compute_dtype(x.dtype)
    I = weight.shape[1]
    gx = torch.zeros_like(x, memory_format=torch.contiguous_format)
    gw = torch.zeros(weight.shape, dtype=dtype, device=weight.device)
    filters = _filters(weight.to(dtype), groups)
    for rows in _chunks(x.shape[0], weight.shape[0] * I * gy.shape[2] * gy.shape[3], dtype):
        gp_bOIHW = torch.where(_membership(indices[rows], I, routing), gy[rows].to(dtype)[:, :, None], 0)
        gp = _by_input(gp_bOIHW, groups)
        x_rows, C = x[rows].to(dtype), x.shape[1]
        gx[rows] = conv2d_input(x_rows.shape, filters, gp, stride, padding, dilation, C).to(x.dtype)
        gw += _weight(conv2d_weight(x_rows, filters.shape, gp, stride, padding, dilation, C), weight.shape, groups)
    return gx, gw.to(weight.dtype)


@dynamic_conv2d_backward.register_fake
def _(
    gy: Tensor,
    x: Tensor,
    weight: Tensor,
    indices: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    routing: str,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(
        weight, memory_format=torch.contiguous_format
    )


def _no_second_backward(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError("dynamic_conv2d: its backward cannot be differentiated again; dynamic_linear's can")


dynamic_conv2d.register_autograd(_backward, setup_context=_setup_context)
dynamic_conv2d_backward.register_autograd(_no_second_backward)


def _chunks(rows: int, row_elements: int, dtype: torch.dtype) -> list[slice]:
    step = rows_per_chunk(row_elements, torch.finfo(dtype).bits // 8)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _output_size(size: Any, kernel: Any, stride: list[int], padding: list[int], dilation: list[int]) -> tuple[int, int]:
    H, W = ((size[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in (0, 1))
    return H, W


def _products(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int) -> Tensor:
    """(W_ci * X_i)(h, w) for every output c and input channel i of its group: (B, O, I, H', W').

    It is a depthwise convolution with O / groups filters an input channel.
    """
    p = F.conv2d(x, _filters(weight, groups), None, stride, padding, dilation, groups=x.shape[1])
    by_input = p.reshape(p.shape[0], groups, weight.shape[1], -1, *p.shape[2:])
    return by_input.transpose(2, 3).reshape(p.shape[0], weight.shape[0], weight.shape[1], *p.shape[2:])


def _filters(weight: Tensor, groups: int) -> Tensor:
    """The weight (O, I, kh, kw) as depthwise filters (groups * I * O / groups, 1, kh, kw), those of an input together."""
    O, I, kh, kw = weight.shape
    return weight.reshape(groups, O // groups, I, kh, kw).transpose(1, 2).reshape(-1, 1, kh, kw)


def _weight(filters: Tensor, shape: torch.Size, groups: int) -> Tensor:
    """The inverse of `_filters`."""
    O, I, kh, kw = shape
    return filters.reshape(groups, I, O // groups, kh, kw).transpose(1, 2).reshape(shape)


def _by_input(p_bOIHW: Tensor, groups: int) -> Tensor:
    """Products as the depthwise convolution lays them out: (b, groups * I * O / groups, H', W')."""
    b, O, I, H, W = p_bOIHW.shape
    return p_bOIHW.reshape(b, groups, O // groups, I, H, W).transpose(2, 3).reshape(b, -1, H, W)


def _route(p_bOIHW: Tensor, mask: Tensor | None, k: int, rule: str, routing: str) -> Tensor:
    """The routed channels: (b, O, k, H, W) by location, (b, O, k) by map."""
    if routing == "location":
        return largest_allowed(p_bOIHW.permute(0, 3, 4, 1, 2), mask, k, rule)[1].permute(0, 3, 4, 1, 2)
    votes = p_bOIHW if rule == "exactly" else p_bOIHW.clamp(min=0)
    return largest_allowed(votes.sum((3, 4)), mask, k, rule)[1]


def _membership(index: Tensor, channels: int, routing: str) -> Tensor:
    """Which channels are routed: boolean, (b, O, I, H, W) by location, (b, O, I, 1, 1) by map."""
    member = torch.zeros(*index.shape[:2], channels + 1, *index.shape[3:], dtype=torch.bool, device=index.device)
    # Index -1 goes to a place of its own that is cut off again.
    member = member.scatter(2, index.where(index >= 0, channels), True)[:, :, :channels]
    return member if routing == "location" else member[..., None, None]
