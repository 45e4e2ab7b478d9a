"""Exact quantiles of a stream: only the largest values of each unit are kept (docs/definitions.md, "Network Dissection")."""

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from dynamick.dissection.selecting import above, grouped, places
from dynamick.errors import InputError


def values_to_keep(n: int, quantile: float = 0.995) -> int:
    """How many of n values must be kept: the ceil(quantile * n)-th smallest is the smallest of them. Counted in integers.

    Raises:
        InputError: the quantile is not above 0 and below 1, or n is below 1.
    """
    if not 0 < quantile < 1:
        raise InputError(f"quantile: {quantile} must lie between 0 and 1, such as 0.995")
    if n < 1:
        raise InputError(f"n: {n} values have no quantile; give 1 at least")
    return n - (-(-Fraction(str(quantile)) * n // 1)) + 1


class TopValues:
    """The `count` largest values of each unit of a stream.

    Once a unit has `count` values, the smallest of them is a bound that only rises. Values that are not above it cannot change
    the result and are dropped. Memory: units * (count + max(count / 4, 256)) float32 values, and those of one update.

    Args:
        units: how many units.
        count: how many values a unit keeps, see `values_to_keep`.

    >>> top = dk.dissection.TopValues(units=1, count=2)
    >>> top.update(torch.tensor([[1.0, 5.0, 3.0]]))
    """

    def __init__(self, units: int, count: int, device: torch.device | str = "cpu") -> None:
        self.units, self.count = units, count
        self._kept = torch.full((units, count + max(count // 4, 256)), -torch.inf, dtype=torch.float32, device=device)
        self._filled = torch.zeros(units, dtype=torch.int64, device=device)
        self.bound = torch.full((units,), -torch.inf, dtype=torch.float32, device=device)
        """Shape (U,): only values above it can still matter. It is never above the final threshold."""

    def update(self, values_UM: Tensor) -> None:
        """Take in M values of every unit, float32, without NaN."""
        higher = places(above(values_UM, self.bound[:, None]))
        self.add(values_UM.flatten().index_select(0, higher), higher // values_UM.shape[1])

    def add(self, values_N: Tensor, units_N: Tensor) -> None:
        """Take in values that exceed the bounds of their units (int64), in any order."""
        counts = torch.bincount(units_N, minlength=self.units)
        order = grouped(units_N)
        values, unit = values_N.index_select(0, order), units_N.index_select(0, order)
        place = torch.arange(len(values), device=values.device) - (counts.cumsum(0) - counts).index_select(0, unit)
        filled = self._filled + counts
        if len(values) and int(filled.max()) > self._kept.shape[1]:
            more = torch.full((self.units, int(counts.max())), -torch.inf, dtype=values.dtype, device=values.device)
            more[unit, place] = values
            self._shrink(torch.cat([self._kept, more], 1), filled)
        else:
            self._kept[unit, place + self._filled.index_select(0, unit)] = values
            self._filled = filled

    def _shrink(self, values: Tensor, filled: Tensor) -> None:
        self._filled = filled.clamp(max=self.count)
        full = self._filled == self.count
        # -inf marks a place without a value yet. It is filled next, so it must be last.
        top = values.topk(self.count, sorted=not bool(full.all())).values
        self._kept[:, : self.count] = top
        self._kept[:, self.count :] = -torch.inf
        self.bound = torch.where(full, top.amin(1), self.bound)

    def tighten(self) -> Tensor:
        """Raise the bound as far as the values seen allow; returns it."""
        self._shrink(self._kept, self._filled)
        return self.bound

    def merge(self, other: "TopValues") -> None:
        """Take in the values of another part of the stream."""
        self.update(other._kept.to(self._kept.device))

    def compute(self) -> Tensor:
        """The `count`-th largest value of each unit, shape (U,): the threshold, when all values have been seen."""
        self._shrink(self._kept, self._filled)
        return self._kept[:, : self.count].amin(1)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        return {"kept": self._kept.cpu().clone(), "filled": self._filled.cpu().clone(), "bound": self.bound.cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        device = self._kept.device
        self._kept, self._filled, self.bound = (state[name].to(device).clone() for name in ("kept", "filled", "bound"))
