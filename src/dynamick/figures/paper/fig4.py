"""The paper's Fig. 4: training curves and sparsity on CIFAR-10."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from dynamick.figures import by_model
from dynamick.figures.averages import Row, verdict
from dynamick.figures.curves import draw_curves
from dynamick.figures.figure import Material, PaperFigure
from dynamick.figures.page import Page
from dynamick.figures.runs import Run, first_of_each
from dynamick.figures.trainings import CIFAR

ORDER = ("d1", "d5", "l1", "dense")
"""Fig. 4b: from the sparsest to the densest."""


def make(material: Material) -> Page:
    """Its page."""
    return by_model.drawn(by_model.page(material.runs, verdicts), draw(material.runs))


def verdicts(rows: list[Row]) -> list[str]:
    """For each neighbouring pair of the paper's order d1 > d5 > L1 > dense whether it holds."""
    return [
        f"{one} sparser than {other}: {a['sparse']:.1f} % against {b['sparse']:.1f} % of weights below 1e-3: "
        + verdict(a["sparse"] > b["sparse"])
        for (one, a), (other, b) in by_model.neighbours(rows, ORDER)
    ]


def draw(runs: Sequence[Run]) -> Figure:
    """(a) top-1 against the epoch, (b) the head's weights as an image; one run a model, its first."""
    first = first_of_each(runs)
    figure = Figure(figsize=(9, 4 + 0.6 * len(first)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[3.4, 0.6 * len(first) + 0.3])[:, 0]
    axes = top.subplots()
    draw_curves(axes, first, "top1", "(a) validation top-1, %; the first run of each")
    axes.legend(fontsize="small", frameon=False)
    for panel, (name, run) in zip(bottom.subplots(len(first), 1, squeeze=False)[:, 0], first.items(), strict=True):
        weight = run.network.get_parameter("fc.weight").detach()
        panel.imshow(weight.abs().clamp(max=0.5).numpy(), aspect="auto", cmap="cividis")
        panel.set_ylabel(name, rotation=0, ha="right", va="center")
        panel.set_xticks([])
        panel.set_yticks([])
    bottom.suptitle("(b) |w| of the first run's head, classes by units; dark: 0, bright: 0.5 and more", fontsize=9)
    return figure


FIGURE = PaperFigure(
    title="Fig. 4: training curves and sparsity on CIFAR-10",
    make=make,
    needs={CIFAR: ("", "-d1a", "-d5a", "-l1")},
    trained_on=("cifar10",),
)
