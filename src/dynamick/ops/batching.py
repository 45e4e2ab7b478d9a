"""torch.func.vmap over registered operators."""

from typing import Any

import torch
from torch import Tensor


def call_batched(
    operator: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Call an operator on batched arguments, as `register_vmap` wants it. Its first argument and its results have rows first.

    If only the rows are batched, they are simply more rows. If something else is batched, such as weights, the operator is
    called once for each.

    Args:
        operator: what to call.
        in_dims: for each argument, along which of its dimensions it is batched, or None.
        arguments: its arguments.

    Returns:
        The results, each batched along its first dimension, and these dimensions.
    """
    if in_dims[0] is not None and _are_none(in_dims[1:]):
        x = arguments[0].movedim(in_dims[0], 0)
        results = operator(x.flatten(0, 1), *arguments[1:])
        return tuple(each.unflatten(0, x.shape[:2]) for each in results), (0,) * len(results)
    apart = [
        each.unbind(dim) if isinstance(each, Tensor) and dim is not None else None
        for each, dim in zip(arguments, in_dims, strict=True)
    ]
    size = next(len(each) for each in apart if each is not None)
    if size == 0:
        # A call with zeros tells which shapes the results would have.
        dims = zip(arguments, in_dims, strict=True)
        one = [each if dim is None else each.new_zeros(each.movedim(dim, 0).shape[1:]) for each, dim in dims]
        results = tuple(each.new_empty(0, *each.shape) for each in operator(*one))
        return results, (0,) * len(results)
    rows = [
        operator(*(each if parts is None else parts[i] for each, parts in zip(arguments, apart, strict=True)))
        for i in range(size)
    ]
    results = tuple(torch.stack(each) for each in zip(*rows, strict=True))
    return results, (0,) * len(results)


def _are_none(dims: Any) -> bool:
    """Whether nothing here is batched; lists of numbers come as lists of dimensions."""
    return all(map(_are_none, dims)) if isinstance(dims, tuple | list) else dims is None
