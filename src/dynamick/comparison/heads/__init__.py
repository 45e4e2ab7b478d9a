"""The heads that are compared, by name. Each is a file with one function `fit(x, labels, classes, budgets, seed)`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from dynamick.comparison.heads import dense, dice, dynamic, dynamic_static, elastic_net, l1, magnitude, top_k
from dynamick.comparison.heads.fitted import Fitted


@dataclass(frozen=True)
class Head:
    """A head to compare.

    Attributes:
        title: for tables and plots.
        fit: yields a `Fitted` for each budget.
        axis: what its budget counts: `static` (non-zeros a class), `routed` (K for each input), or "" (it has none).
        steps: about as many of the solver's steps over all features as a budget takes; for estimates of time only.
        seeded: False where the result does not depend on the seed.
    """

    title: str
    fit: Callable[..., Iterator[Fitted]]
    axis: str
    steps: float
    seeded: bool = False


HEADS = {
    "dense": Head("dense", dense.fit, "", 120),
    "elastic-net": Head("elastic-net path", elastic_net.fit, "static", 400),
    "elastic-net-tuned": Head("elastic-net path, fine-tuned", partial(elastic_net.fit, fine_tuned=True), "static", 700),
    "l1": Head("L1 path", l1.fit, "static", 500),
    "dice": Head("DICE", dice.fit, "static", 45),
    "dice-tuned": Head("DICE, fine-tuned", partial(dice.fit, fine_tuned=True), "static", 450),
    "magnitude": Head("magnitude pruning", magnitude.fit, "static", 45),
    "magnitude-tuned": Head("magnitude pruning, fine-tuned", partial(magnitude.fit, fine_tuned=True), "static", 450),
    "dynamic-static": Head("Dynamic-K static (pruned, exchanged, fine-tuned)", dynamic_static.fit, "static", 2000, seeded=True),
    "top-k": Head("top-K of the dense head", top_k.fit, "routed", 45),
    "dynamic-at-most": Head("Dynamic-K, at_most", dynamic.fit, "routed", 280, seeded=True),
    "dynamic-exactly": Head("Dynamic-K, exactly", partial(dynamic.fit, rule="exactly"), "routed", 280, seeded=True),
}

__all__ = ["HEADS", "Fitted", "Head"]
