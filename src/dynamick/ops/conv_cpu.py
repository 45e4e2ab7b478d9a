"""Convolutions routed by map on a CPU (csrc/convolution.cpp): the kernel's second part, in the libraries that `cpu` loads."""

import ctypes

import torch
from torch import Tensor

from dynamick.ops import cpu
from dynamick.ops.conv_products import Settings

MOST_TAPS = 121
"""Filters of more taps (11 x 11) take PyTorch's path."""


def by_map(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, how: Settings) -> tuple[Tensor, Tensor] | None:
    """Outputs (B, O, H', W') in float32 and the routed channels (B, O, min(k, I)); None where the kernel does not serve."""
    if not _serves(x, weight):
        return None
    size = how.output_size(x.shape[2:], weight.shape[2:])
    y = x.new_empty(x.shape[0], weight.shape[0], *size, dtype=torch.float32)
    index = x.new_empty(*y.shape[:2], min(how.k, weight.shape[1]), dtype=torch.int64)
    dense = [None if each is None else cpu.dense(each) for each in (x, weight, bias)]
    mask = cpu.dense_mask(mask)
    inputs = (cpu.address(dense[0]), cpu.address(dense[1]), cpu.address(mask), _numbers(x, weight, how), how.rule == "exactly")
    outcome = _library().dynamick_maps_forward(
        *inputs, torch.get_num_threads(), cpu.address(dense[2]), y.data_ptr(), index.data_ptr()
    )
    cpu.check_memory(outcome)
    return (y, index) if outcome == cpu.DONE else None


def map_gradients(
    gy: Tensor, x: Tensor, weight: Tensor, index: Tensor, how: Settings, want_x: bool, want_w: bool
) -> tuple[Tensor | None, Tensor | None] | None:
    """The gradients of inputs and weight in float32, None for one that is not wanted; None where the kernel does not serve."""
    if not _serves(x, weight):
        return None
    gx = x.new_empty(x.shape, dtype=torch.float32) if want_x else None
    gw = x.new_empty(weight.shape, dtype=torch.float32) if want_w else None
    gy, x_dense, w_dense, index = cpu.dense(gy), cpu.dense(x), cpu.dense(weight), index.contiguous()
    inputs = (x_dense.data_ptr(), w_dense.data_ptr(), _numbers(x, weight, how), torch.get_num_threads())
    outputs = (cpu.address(gx), cpu.address(gw))
    outcome = _library().dynamick_maps_backward(*inputs, gy.data_ptr(), index.data_ptr(), *outputs)
    cpu.check_memory(outcome)
    return (gx, gw) if outcome == cpu.DONE else None


def _serves(x: Tensor, weight: Tensor) -> bool:
    served = cpu.kernel is not None and x.device.type == weight.device.type == "cpu" and x.dtype != torch.float64
    return served and x.numel() > 0 and weight.numel() > 0 and weight[0, 0].numel() <= MOST_TAPS


def _library() -> ctypes.CDLL:
    assert cpu.kernel is not None
    return cpu.kernel.library


def _numbers(x: Tensor, weight: Tensor, how: Settings) -> ctypes.Array:
    """What `Convolution` in csrc/convolution.h begins with, in its order."""
    (B, _, H, W), (O, I, kh, kw) = x.shape, weight.shape
    numbers = [B, H, W, O, I, how.groups, kh, kw, *how.stride, *how.padding, *how.dilation, how.k]
    return (ctypes.c_int64 * len(numbers))(*numbers)
