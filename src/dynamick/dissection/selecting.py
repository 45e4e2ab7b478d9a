"""Comparison and selection, which on a CPU NumPy does several times as fast as PyTorch."""

import numpy as np
import torch
from torch import Tensor


def above(values: Tensor, bound: Tensor) -> Tensor:
    """`values > bound`, boolean; shapes broadcast."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.greater(values.numpy(), bound.numpy()))
    return values > bound


def places(mask: Tensor) -> Tensor:
    """Where a boolean tensor is true, as places in its flattened form: int64, rising."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero()[:, 0]


def select(values: Tensor, mask: Tensor) -> Tensor:
    """`values[mask]`, of one shape."""
    if mask.device.type == "cpu":
        return torch.from_numpy(values.numpy()[mask.numpy()])
    return values[mask]
