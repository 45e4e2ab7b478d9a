"""Convolutions on a CPU (csrc/convolution.cpp): the kernel's second part, in the libraries that `cpu` loads."""

import ctypes

import torch
from torch import Tensor

from dynamick.ops import cpu
from dynamick.ops.conv_products import Settings

MOST_TAPS = 121
"""Filters of more taps (11 x 11) take PyTorch's path."""
MOST_SORTED = 16
"""So does a larger K, by location."""


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, how: Settings) -> tuple[Tensor, Tensor] | None:
    """What `dynamic_conv2d` returns, outputs (B, O, H', W') in float32; None where the kernel does not serve."""
    if not _serves(x, weight, how):
        return None
    size = how.output_size(x.shape[2:], weight.shape[2:])
    y = x.new_empty(x.shape[0], weight.shape[0], *size, dtype=torch.float32)
    by_map = how.routing == "map"
    index = torch.empty(*y.shape[:2], min(how.k, weight.shape[1]), dtype=torch.int64)
    kept = index if by_map else torch.empty_like(y)
    # Held here, so that they live as long as the call.
    x, w, b, m = cpu.dense(x), cpu.dense(weight), None if bias is None else cpu.dense(bias), cpu.dense_mask(mask)
    inputs = (x.data_ptr(), w.data_ptr(), cpu.address(m), _numbers(x, w, how), how.rule == "exactly", torch.get_num_threads())
    library = _library()
    call = library.dynamick_maps_forward if by_map else library.dynamick_locations_forward
    outcome = call(*inputs, cpu.address(b), y.data_ptr(), kept.data_ptr())
    cpu.check_memory(outcome, "dynamic_conv2d")
    return (y, kept) if outcome == cpu.DONE else None


def gradients(
    gy: Tensor, x: Tensor, weight: Tensor, mask: Tensor | None, kept: Tensor, how: Settings, want_x: bool, want_w: bool
) -> tuple[Tensor | None, Tensor | None] | None:
    """The gradients of inputs and weight in float32, None for one that is not wanted; None where the kernel does not serve."""
    if not _serves(x, weight, how):
        return None
    gx = x.new_empty(x.shape, dtype=torch.float32) if want_x else None
    gw = x.new_empty(weight.shape, dtype=torch.float32) if want_w else None
    gy, x, w, m, kept = cpu.dense(gy), cpu.dense(x), cpu.dense(weight), cpu.dense_mask(mask), kept.contiguous()
    inputs = (x.data_ptr(), w.data_ptr(), cpu.address(m), _numbers(x, w, how), how.rule == "exactly", torch.get_num_threads())
    library = _library()
    call = library.dynamick_maps_backward if how.routing == "map" else library.dynamick_locations_backward
    outcome = call(*inputs, gy.data_ptr(), kept.data_ptr(), cpu.address(gx), cpu.address(gw))
    cpu.check_memory(outcome, "dynamic_conv2d")
    return (gx, gw) if outcome == cpu.DONE else None


def _serves(x: Tensor, weight: Tensor, how: Settings) -> bool:
    served = cpu.kernel is not None and x.device.type == weight.device.type == "cpu" and x.dtype != torch.float64
    if not served or not (x.numel() and weight.numel()) or weight[0, 0].numel() > MOST_TAPS:
        return False
    return how.routing == "map" or min(how.k, weight.shape[1]) <= MOST_SORTED


def _library() -> ctypes.CDLL:
    assert cpu.kernel is not None
    return cpu.kernel.library


def _numbers(x: Tensor, weight: Tensor, how: Settings) -> ctypes.Array:
    """What `Convolution` in csrc/convolution.h begins with, in its order."""
    (B, _, H, W), (O, I, kh, kw) = x.shape, weight.shape
    numbers = [B, H, W, O, I, how.groups, kh, kw, *how.stride, *how.padding, *how.dilation, how.k]
    return (ctypes.c_int64 * len(numbers))(*numbers)
