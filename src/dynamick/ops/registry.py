"""Which implementations of the operator there are, and which one serves a call.

An implementation is one file in this folder that calls `register`; the operator finds it by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Forward = Callable[[Tensor, Tensor, Tensor | None, int, str], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Implementation:
    """One way to compute the routed indices and values.

    Attributes:
        name: what `implementation=` calls it.
        route: `(x_BM, weight_OM, mask_OM or None, k, rule) -> (products_BOK, indices_BOK)`: the routed products in float32
            (float64 for float64 input), sorted descending (NaN first, ties by the lower index), and their indices, int64;
            a place that routes nothing holds product 0 and index -1. K is min(k, M).
        supports: whether it can serve these tensors.
        priority: among those that can, the highest serves by default.
    """

    name: str
    route: Forward
    supports: Callable[[Tensor, Tensor], bool]
    priority: int


_implementations: dict[str, Implementation] = {}


def register(name: str, *, priority: int, supports: Callable[[Tensor, Tensor], bool]) -> Callable[[Forward], Forward]:
    """Decorate a route function to add it under this name."""

    def add(route: Forward) -> Forward:
        _implementations[name] = Implementation(name, route, supports, priority)
        return route

    return add


def implementations() -> list[str]:
    """The names of all implementations, the preferred first."""
    return [each.name for each in sorted(_implementations.values(), key=lambda each: -each.priority)]


def select(name: str | None, x: Tensor, weight: Tensor) -> Implementation:
    """The implementation of this name, or the preferred one that supports these tensors.

    Raises:
        ValueError: no implementation has this name, or it does not support these tensors.
    """
    if name is None:
        supported = [each for each in _implementations.values() if each.supports(x, weight)]
        return max(supported, key=lambda each: each.priority)
    if name not in _implementations:
        raise ValueError(f"implementation {name!r} is unknown; there are {', '.join(implementations())}")
    if not _implementations[name].supports(x, weight):
        raise ValueError(f"implementation {name!r} does not support {x.dtype} on {x.device.type}")
    return _implementations[name]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Products are formed and compared in float32, or in float64 where the input is (SPEC section 8)."""
    return torch.float64 if dtype == torch.float64 else torch.float32
