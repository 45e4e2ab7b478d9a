"""What a head to compare says about itself."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from dynamick.comparison.heads.fitted import Fitted

AXES = ("", "static", "routed")


@dataclass(frozen=True)
class ComparedHead:
    """A head to compare.

    Attributes:
        name: what `--heads` calls it.
        title: for tables and plots.
        fit: `(x, labels, classes, budgets, seed)`; yields a `Fitted` for each budget.
        axis: what its budget counts: `static` (non-zeros a class), `routed` (K for each input), or "" (it has none).
        steps: about how many of the solver's steps over all features a budget takes; only for estimates of time.
        seeded: False if the result does not depend on the seed.
        place: among the heads of its axis, in tables and plots: the lowest stands first.
        colour: of its line, as a place in `dynamick.dissection.plots.COLOURS`.
        marker: of its points, as matplotlib calls it.
        tuned: whether it is another head, fitted again: its line is broken, and its markers are hollow.
        empty: a head of the shapes of a state dict, for a budget, to read it into; None for one linear layer.
    """

    name: str
    title: str
    fit: Callable[..., Iterator[Fitted]]
    axis: str
    steps: float
    seeded: bool = False
    place: int = 100
    colour: int = 6
    marker: str = "v"
    tuned: bool = False
    empty: Callable[[dict[str, Tensor], int], nn.Module] | None = None

    @property
    def order(self) -> tuple[int, int, str]:
        """Where it stands among all heads."""
        return AXES.index(self.axis), self.place, self.name
