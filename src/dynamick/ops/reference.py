"""Algorithm 2 in the paper's own letters. It is slow and plain, and every other implementation is compared with it."""

import math

import torch
from torch import Tensor

from dynamick.ops.registry import compute_dtype, register


@register("reference", priority=-1, supports=lambda x, weight: True)
def route_reference(x: Tensor, weight: Tensor, mask: Tensor | None, k: int, rule: str) -> tuple[Tensor, Tensor]:
    """Algorithm 2, one class of one input at a time: choose R^c, the K products W_i^c X_i that make Y_c largest."""
    dtype = compute_dtype(x.dtype)
    X, W = x.detach().to("cpu", dtype), weight.detach().to("cpu", dtype)
    B, M, O = X.shape[0], X.shape[1], W.shape[0]
    width = min(k, M)
    products = torch.zeros(B, O, width, dtype=dtype)
    indices = torch.full((B, O, width), -1, dtype=torch.int64)
    for b in range(B):
        for c in range(O):
            p = (W[c] * X[b]).tolist()
            allowed = [i for i in range(M) if mask is None or bool(mask[c, i])]
            if rule == "at_most":
                allowed = [i for i in allowed if p[i] > 0 or math.isnan(p[i])]
            R = sorted(allowed, key=lambda i: (not math.isnan(p[i]), -p[i] if not math.isnan(p[i]) else 0.0, i))[:width]
            for place, i in enumerate(R):
                products[b, c, place] = p[i]
                indices[b, c, place] = i
    return products.to(x.device), indices.to(x.device)
