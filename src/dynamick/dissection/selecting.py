"""Comparison and selection. On a CPU, NumPy is several times as fast as PyTorch here."""

import numpy as np
import torch
from torch import Tensor


def _on_cpu(values: Tensor) -> bool:
    return values.device.type == "cpu"


def above(values: Tensor, bound: Tensor | float) -> Tensor:
    """`values > bound`, boolean; shapes broadcast."""
    if _on_cpu(values):
        return torch.from_numpy(np.greater(values.numpy(), bound.numpy() if isinstance(bound, Tensor) else np.float32(bound)))
    return values > bound


def places(mask: Tensor) -> Tensor:
    """Where a boolean tensor is true, as places in its flattened form: int64, rising."""
    if _on_cpu(mask):
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero()[:, 0]


def grouped(numbers_N: Tensor) -> Tensor:
    """The order that puts equal numbers (0 or more) together, the lowest first. Equals keep their order."""
    if _on_cpu(numbers_N):
        plain = numbers_N.numpy()
        # NumPy sorts 16-bit numbers by their digits, in linear time.
        short = len(plain) and plain.max() < 2**16
        return torch.from_numpy(np.argsort(plain.astype(np.uint16) if short else plain, kind="stable"))
    return torch.argsort(numbers_N, stable=True)
