"""Which implementations of the linear map there are, and which one computes a call.

An implementation is one file or folder here that calls `register`, `add` or `register_absent`; the operator finds it by
itself, and so does `dynamick doctor`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

Supports = Callable[[Tensor, Tensor], bool]
Forward = Callable[[Tensor, Tensor, Tensor | None, int, str], tuple[Tensor, Tensor]]
Sum = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, int, str], Tensor]


@dataclass(frozen=True)
class Implementation:
    """One way to compute the linear map. It gives routes, or sums, or both.

    Attributes:
        name: what `implementation=` calls it.
        supports: `(x, weight)`: whether it can compute with these tensors.
        priority: of those that can, the one of highest priority is the default.
        route: `(x_BM, weight_OM, mask_OM or None, k, rule) -> (products_BOK, indices_BOK)`: the routed products in float32
            (float64 for float64 input), sorted descending (NaN first, ties by the lower index), and their indices, int64;
            a place that routes nothing holds product 0 and index -1. K is min(k, M). None if it gives no routes. Then a
            call that asks for routes, or for float64, goes to the preferred implementation that gives them.
        sum: `(x_BM, weight_OM, bias_O or None, mask_OM or None, k, rule) -> y_BO` in float32, differentiable: the outputs
            without the routes. It is used for calls that need no more, in float32 or narrower. None if it has only routes.
        label: what `dynamick doctor` writes behind its name, such as the level that a library was compiled for.
        notes: what `dynamick doctor` says of it at the end, a line each.

    >>> layer = dk.ops.Implementation("mine", supports=lambda x, weight: x.is_cuda, priority=1)
    >>> layer.supports(torch.rand(1), torch.rand(1))
    False
    """

    name: str
    supports: Supports
    priority: int
    route: Forward | None = None
    sum: Sum | None = None
    label: Callable[[], str] = lambda: ""
    notes: Callable[[], Sequence[str]] = lambda: ()


_implementations: dict[str, Implementation] = {}
# The same, highest priority first. Sorted here, because torch.compile cannot follow max(key=...).
_preferred: list[Implementation] = []
_absent: dict[str, str] = {}


def add(implementation: Implementation) -> None:
    """Add an implementation under its name.

    >>> def never(x, weight):
    ...     return False
    >>> dk.ops.add(dk.ops.Implementation("mine", supports=never, priority=0))
    >>> "mine" in dk.ops.implementations()
    True
    """
    _implementations[implementation.name] = implementation
    _preferred[:] = sorted(_implementations.values(), key=lambda each: -each.priority)


def register(name: str, *, priority: int, supports: Supports) -> Callable[[Forward], Forward]:
    """Decorate a function that forms routes, to add it under this name; `Implementation` says what it takes and gives.

    >>> @dk.ops.register("slow", priority=0, supports=lambda x, weight: False)
    ... def slow(x, weight, mask, k, rule):
    ...     return dk.ops.reference.route_reference(x, weight, mask, k, rule)
    """

    def decorate(route: Forward) -> Forward:
        add(Implementation(name, supports, priority, route=route))
        return route

    return decorate


def register_absent(name: str, why: str) -> None:
    """Note an implementation that cannot run here, and why, in one line."""
    _absent[name] = why


def absent() -> dict[str, str]:
    """The implementations that cannot run here, and why."""
    return dict(_absent)


def implementations() -> list[str]:
    """The names of all implementations that can run here, the preferred first.

    >>> "reference" in dk.ops.implementations()
    True
    """
    return [each.name for each in _preferred]


def all_present() -> Sequence[Implementation]:
    """All implementations that can run here, the preferred first."""
    return tuple(_preferred)


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


def select_for_routes(name: str | None, x: Tensor, weight: Tensor) -> Implementation:
    """The same for calls that ask for routes: if the selected one gives none, the preferred one that does.

    Raises:
        ValueError: as `select`.
    """
    chosen = select(name, x, weight)
    if chosen.route is not None:
        return chosen
    return next(each for each in _preferred if each.route is not None and each.supports(x, weight))


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Products are formed and compared in float32, or in float64 where the input is (docs/definitions.md, "Dynamic-K").

    >>> dk.ops.compute_dtype(torch.bfloat16)
    torch.float32
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on. Some devices (meta) do not have it and may not be asked."""
    device = x.device.type
    # torch.compile of PyTorch 2.6 does not follow is_autocast_available.
    available = device != "meta" if torch.compiler.is_compiling() else torch.amp.is_autocast_available(device)
    return available and torch.is_autocast_enabled(device)


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context in which products are not rounded: rounding should not decide which products are the largest."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()
