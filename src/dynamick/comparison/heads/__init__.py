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
        passes: about how many gradients over all features a budget costs; for estimates of time only.
        seeded: False where the result does not depend on the seed.
    """

    title: str
    fit: Callable[..., Iterator[Fitted]]
    axis: str
    passes: float
    seeded: bool = False


HEADS = {
    "dense": Head("dense", dense.fit, "", 200),
    "elastic-net": Head("elastic-net path", elastic_net.fit, "static", 350),
    "elastic-net-tuned": Head("elastic-net path, fine-tuned", partial(elastic_net.fit, fine_tuned=True), "static", 450),
    "l1": Head("L1 path", l1.fit, "static", 350),
    "dice": Head("DICE", dice.fit, "static", 30),
    "dice-tuned": Head("DICE, fine-tuned", partial(dice.fit, fine_tuned=True), "static", 150),
    "magnitude": Head("magnitude pruning", magnitude.fit, "static", 30),
    "magnitude-tuned": Head("magnitude pruning, fine-tuned", partial(magnitude.fit, fine_tuned=True), "static", 150),
    "dynamic-static": Head("Dynamic-K static (pruned, exchanged, fine-tuned)", dynamic_static.fit, "static", 2000, seeded=True),
    "top-k": Head("top-K of the dense head", top_k.fit, "routed", 30),
    "dynamic-at-most": Head("Dynamic-K, at_most", dynamic.fit, "routed", 900, seeded=True),
    "dynamic-exactly": Head("Dynamic-K, exactly", partial(dynamic.fit, rule="exactly"), "routed", 900, seeded=True),
}

__all__ = ["HEADS", "Fitted", "Head"]
