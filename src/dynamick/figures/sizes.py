"""The size of runs, in words: for a page, and above a drawing."""

from collections.abc import Sequence
from textwrap import wrap

from matplotlib.figure import Figure

from dynamick.errors import InputError
from dynamick.figures.runs import Run

PAPER_DATA = {"cifar10": "CIFAR-10, 200 epochs", "folder": "Places365 (365 classes, 224 pixels), 70 epochs"}


def sizes(runs: Sequence[Run], seen: str = "") -> str:
    """The size of the runs and the data of their dissections (`seen`), beside the paper's.

    Raises:
        InputError: they are of different data.
    """
    data = sorted({_data(run) for run in runs})
    if len(data) > 1:
        raise InputError(f"runs: of different data ({', '.join(data)}); give those of one")
    each = sorted({f"width {run.recipe.width}, {run.recipe.optim.epochs} epochs" for run in runs})
    models = ", ".join(sorted({run.model for run in runs}))
    paper = f"ResNet-18 and ResNet-50, width 64, {PAPER_DATA[runs[0].recipe.data.kind]}"
    ours, theirs = (f"; {seen}", "; dissected on Broden") if seen else ("", "")
    return f"Ours: {models} ({'; '.join(each)}) on {data[0]}{ours}. Paper: {paper}{theirs}."


def _data(run: Run) -> str:
    data, classes = run.recipe.data, len(run.network.classes)
    return f"{data.title} ({classes} classes, {data.side} pixels)" if data.source.named_by_root else data.title


def caption(figure: Figure, size: str) -> None:
    """Write the sizes above a drawing, ours and the paper's, in lines that fit its width."""
    width = int(16 * figure.get_figwidth())
    lines = [line for part in size.replace(" Paper:", "\nPaper:").splitlines() for line in wrap(part, width)]
    figure.suptitle("\n".join(lines), fontsize=8)
