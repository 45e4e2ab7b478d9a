"""K that falls during training: many units learn first, and few are left."""

from torch import nn

from dynamick.errors import InputError
from dynamick.nn import DynamicConv2d, DynamicLinear


def scheduled_k(k_start: int, k: int, progress: float) -> int:
    """K at a share of the training, 0..1: falls geometrically from `k_start` to `k` at the half, and stays there."""
    return round(k * (k_start / k) ** max(0.0, 1 - 2 * progress))


class KSchedule:
    """Sets K of a network's Dynamic-K layers, step by step.

    Args:
        model: a converted network. `layer.k` may be set at any time, also in a compiled one, which compiles again for a new K.
        k_start: K of the first step, at least `k`.
        k: K from half of the steps on.
        steps: of the whole training.

    Attributes:
        k: K as it is now.

    Raises:
        InputError: the network has no Dynamic-K layer, or K rises, or is below 1, or there are no steps.

    >>> model = dk.convert(torch.nn.Linear(64, 10), k=5)
    >>> schedule = dk.KSchedule(model, k_start=20, k=5, steps=4)
    >>> ks = []
    >>> for _ in range(4):
    ...     ks.append(schedule.k)
    ...     schedule.step()
    >>> ks
    [20, 10, 5, 5]
    """

    def __init__(self, model: nn.Module, k_start: int, k: int, steps: int) -> None:
        self.layers = [each for each in model.modules() if isinstance(each, DynamicConv2d | DynamicLinear)]
        if not self.layers:
            raise InputError("KSchedule: the model has no Dynamic-K layer; convert it first")
        if not 1 <= k <= k_start:
            raise InputError(f"KSchedule: from {k_start} to {k}; give a k from 1 up, and a k_start that is not smaller")
        if steps < 1:
            raise InputError(f"KSchedule: {steps} steps; give their number, from 1 up")
        self.k_start, self.last, self.steps, self.done = k_start, k, steps, 0
        self._set()

    def step(self) -> None:
        """After each step of the optimiser."""
        self.done += 1
        self._set()

    def _set(self) -> None:
        self.k = scheduled_k(self.k_start, self.last, min(1.0, self.done / self.steps))
        for layer in self.layers:
            layer.k = self.k

    def state_dict(self) -> dict[str, int]:
        """How many steps are done, for a checkpoint."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where a checkpoint was written."""
        self.done = state["done"]
        self._set()
