"""Which implementations of the operator there are, and which one serves a call.

An implementation is one file or folder here that calls `register`; the operator finds it by itself.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

Forward = Callable[[Tensor, Tensor, Tensor | None, int, str], tuple[Tensor, Tensor]]
Sum = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, int, str], Tensor]


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
        sum: where it is given, `(x_BM, weight_OM, bias_O or None, mask_OM or None, k, rule) -> y_BO` in float32,
            differentiable: the outputs without the routes. It serves whoever asks for no more, in float32 or narrower.
    """

    name: str
    route: Forward
    supports: Callable[[Tensor, Tensor], bool]
    priority: int
    sum: Sum | None = None


_implementations: dict[str, Implementation] = {}
# The same, highest priority first: sorted here, for torch.compile follows no keyed maximum.
_preferred: list[Implementation] = []
_absent: dict[str, str] = {}


def register(
    name: str, *, priority: int, supports: Callable[[Tensor, Tensor], bool], sum: Sum | None = None
) -> Callable[[Forward], Forward]:
    """Decorate a route function to add it under this name."""

    def add(route: Forward) -> Forward:
        _implementations[name] = Implementation(name, route, supports, priority, sum)
        _preferred[:] = sorted(_implementations.values(), key=lambda each: -each.priority)
        return route

    return add


def register_absent(name: str, why: str) -> None:
    """Note an implementation that cannot run here, and why, in one line."""
    _absent[name] = why


def absent() -> dict[str, str]:
    """The implementations that cannot run here, and why."""
    return dict(_absent)


def implementations() -> list[str]:
    """The names of all implementations that can run here, the preferred first."""
    return [each.name for each in _preferred]


def select(name: str | None, x: Tensor, weight: Tensor) -> Implementation:
    """The implementation of this name, or the preferred one that supports these tensors.

    Raises:
        ValueError: no implementation has this name, it cannot run here, or it does not support these tensors.
    """
    if name is None:
        return next(each for each in _preferred if each.supports(x, weight))
    if name in _absent:
        raise ValueError(f"implementation {name!r} cannot run here: {_absent[name]}")
    if name not in _implementations:
        raise ValueError(f"implementation {name!r} is unknown; there are {', '.join(implementations())}")
    if not _implementations[name].supports(x, weight):
        raise ValueError(f"implementation {name!r} does not support {x.dtype} on {x.device.type}")
    return _implementations[name]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Products are formed and compared in float32, or in float64 where the input is (docs/definitions.md, "Dynamic-K")."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on; some devices (meta) have none, and may not be asked."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context in which products are not rounded: which are largest should not hang on it."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()
