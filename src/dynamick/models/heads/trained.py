"""What a head that trains says of itself: its name, its layer, how it is trained, and how it is shown."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Routing:
    """Which products a linear classifier sums.

    Attributes:
        k: how many inputs a class routes at most; None if a class sums all of them.
        rule: `at_most`, `exactly`, or `dense` where k is None.
        mask: boolean, shape (classes, inputs), False where a connection is pruned; or None.
    """

    k: int | None = None
    rule: str = "dense"
    mask: Tensor | None = None


def all_products(layer: nn.Module) -> Routing:
    """The routing of a layer that sums all its products."""
    return Routing()


def nothing(weight: Tensor, lr: float, strength: float) -> None:
    """What most heads do after a step of the optimiser."""


@dataclass(frozen=True)
class TrainedHead:
    """One kind of head. A file in `models/heads/` that has one as `HEAD` adds it everywhere.

    Attributes:
        name: such as `dynamic`.
        suffix: what follows the depth in a model's name: `d{k}a` of `res18-d5a`. Empty for the dense head.
        layer: makes it, from the number of inputs, of classes, K (None if the suffix has none) and the rule.
        holds: whether a layer is such a head.
        label: its short name in tables and figures, such as `d{k}`.
        routing: which products such a layer sums, as an explanation shows it.
        routes: it chooses its products anew for each input, as a `DynamicLinear` does. So it can be pruned without loss and
            made static.
        sampled: Interpretable SGD may sample its weight.
        strength: the key of a recipe's `optim` that only this head takes, and needs; None if there is none.
        after_step: what happens to the weight after each step, from the weight, its learning rate and that strength.
    """

    name: str
    suffix: str
    layer: Callable[[int, int, int | None, str], nn.Module]
    holds: Callable[[nn.Module], bool]
    label: str
    routing: Callable[[nn.Module], Routing] = all_products
    routes: bool = False
    sampled: bool = False
    strength: str | None = None
    after_step: Callable[[Tensor, float, float], None] = nothing

    @property
    def takes_k(self) -> bool:
        """Whether its name in a model's name holds K."""
        return "{k}" in self.suffix
