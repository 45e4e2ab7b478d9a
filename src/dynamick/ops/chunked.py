"""The PyTorch path: products of a few rows at a time. A setting bounds its memory, which never grows as B*O*M."""

import torch
from torch import Tensor

from dynamick.ops.registry import compute_dtype, register

chunk_bytes = 64 * 2**20
"""How many bytes of products may exist at once; but always at least one row's, O*M products."""


def rows_per_chunk(row_elements: int, element_size: int) -> int:
    """How many rows of so many elements fit into `chunk_bytes`; at least one."""
    return max(1, chunk_bytes // max(1, row_elements * element_size))


@register("chunked", priority=0, supports=lambda x, weight: True)
def route_chunked(x: Tensor, weight: Tensor, mask: Tensor | None, k: int, rule: str) -> tuple[Tensor, Tensor]:
    """Form the products of a chunk of rows and keep the K routed ones of each."""
    dtype = compute_dtype(x.dtype)
    x_BM, w_OM = x.detach().to(dtype), weight.detach().to(dtype)
    B, M, O = x_BM.shape[0], x_BM.shape[1], w_OM.shape[0]
    width = min(k, M)
    products = torch.empty(B, O, width, dtype=dtype, device=x.device)
    indices = torch.empty(B, O, width, dtype=torch.int64, device=x.device)
    step = rows_per_chunk(O * M, products.element_size())
    for start in range(0, B, step):
        rows = slice(start, min(start + step, B))
        p_bOM = x_BM[rows, None, :] * w_OM
        products[rows], indices[rows] = largest_allowed(p_bOM, mask, width, rule)
    return products, indices


def largest_allowed(p: Tensor, mask: Tensor | None, k: int, rule: str) -> tuple[Tensor, Tensor]:
    """The routed ones of some products: the k largest that the mask and the rule allow.

    Args:
        p: products, shape (..., O, M).
        mask: boolean, shape (O, M), False where a connection is pruned; None allows all.
        k: at most M.
        rule: `at_most` routes positive products (and NaN) only, `exactly` those of any sign.

    Returns:
        Products and indices, shape (..., O, k); product 0 and index -1 where nothing is routed.
    """
    if mask is None:
        top, index = largest(p, k, floor=0.0 if rule == "at_most" else None)
    else:
        # Only what the mask forbids is -inf here, so that an allowed product of -inf still ranks above it.
        rank = p.clamp(min=torch.finfo(p.dtype).min).masked_fill(~mask, -torch.inf)
        top, index = largest(rank, k)
        forbidden = top == -torch.inf
        top, index = p.gather(-1, index).masked_fill(forbidden, 0), index.masked_fill(forbidden, -1)
    if rule == "at_most":
        nothing = top <= 0
        top, index = top.masked_fill(nothing, 0), index.masked_fill(nothing, -1)
    return top, index


def largest(values: Tensor, k: int, floor: float | None = None) -> tuple[Tensor, Tensor]:
    """The k largest along the last axis, descending: NaN ranks highest, of equals the lower index wins.

    Args:
        values: shape (..., M).
        k: at most M.
        floor: values at or below it may come in any order, which saves time where many of them are equal.

    Returns:
        The values and their indices, both of shape (..., k).
    """
    M = values.shape[-1]
    if k < M:
        # Of several equal values topk may take any: its values are right, and the right indices are found below.
        top, index = values.topk(k + 1, dim=-1)
        edge, beyond = top[..., k - 1], top[..., k]
        tied = (edge == beyond) | (edge.isnan() & beyond.isnan())
        if floor is not None:
            tied &= ~(edge <= floor)
        top, index = top[..., :k], index[..., :k]
        if tied.any():
            top[tied], index[tied] = _stable(values[tied], k)
        return _order(top, index)
    return _stable(values, k)


def _stable(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same by a stable sort: equal values keep the order of their indices. PyTorch sorts NaN as the largest."""
    ordered, index = values.sort(dim=-1, descending=True, stable=True)
    return ordered[..., :k], index[..., :k]


def _order(top: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Order a selection by value, and equal values by index."""
    index, by_index = index.sort(dim=-1)
    top, by_value = top.gather(-1, by_index).sort(dim=-1, descending=True, stable=True)
    return top, index.gather(-1, by_value)


def sums_stay_finite(x: Tensor, weight: Tensor, terms: int) -> bool:
    """Whether every product, and every sum of so many, is below half of the largest float. False if there is a NaN."""
    if not (x.numel() and weight.numel()):
        return True
    dtype = compute_dtype(x.dtype)
    x_most, w_most = (torch.linalg.vector_norm(each.detach(), torch.inf, dtype=dtype) for each in (x, weight))
    return float(x_most * w_most) * terms < torch.finfo(dtype).max / 2
