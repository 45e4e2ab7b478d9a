"""The paper's Table 1: accuracy by K."""

from dynamick.figures import by_model
from dynamick.figures.figure import Material, PaperFigure
from dynamick.figures.page import Page
from dynamick.figures.trainings import CIFAR


def make(material: Material) -> Page:
    """Its page, from runs of one data set."""
    return by_model.page(material.runs, by_model.accuracy_verdicts)


FIGURE = PaperFigure(
    title="Table 1: accuracy by K",
    make=make,
    needs={CIFAR: ("", "-d1a", "-d5a", "-d10a", "-d25a", "-d50a", "-d100a", "-l1")},
    trained_on=("cifar10", "folder"),
)
