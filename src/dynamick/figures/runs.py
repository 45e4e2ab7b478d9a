"""Finished trainings, as figures read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from dynamick import models, networks
from dynamick.data.recipe import open_images
from dynamick.dissection import Dissection
from dynamick.errors import InputError
from dynamick.figures.averages import rank
from dynamick.settings import read_yaml
from dynamick.training import read_history
from dynamick.training.recipe import Recipe, differences, run_label

CONFIG, METRICS, WEIGHTS = "config.yaml", "metrics.csv", "last.safetensors"


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: where it is.
        model: the model's name, and what else of the recipe makes its head another one. Runs of one model are averaged.
        head: `dense`, `l1`, `d5`, ...; `sampled` if Interpretable SGD trained it.
        k: of a Dynamic-K head; None of all others.
        depth: the ResNet's; 0 of a CapsNet.
        recipe: how it was trained.
        network: as its last epoch left it.
        history: a row of numbers for each epoch (metrics.csv).
        units: the dissection of the network's last maps, for the figures that need it.

    >>> recipe = dk.training.Recipe.read("scenes-small", {})
    >>> dk.figures.Run(Path("runs/d5"), "res8-d5a", "d5", 5, 8, recipe, dk.models.create("res8-d5a", 10)).k
    5
    """

    folder: Path
    model: str
    head: str
    k: int | None
    depth: int
    recipe: Recipe
    network: Any
    history: Sequence[dict[str, float]] = ()
    units: Dissection | None = None


def read_run(folder: Path) -> Run:
    """Read a folder that `dynamick train` wrote.

    Raises:
        InputError: the folder holds no training, or a damaged one, or one that is not finished.

    >>> few = {"width": 8, "data.train_images": 64, "data.val_images": 20, "optim.epochs": 1}
    >>> recipe = dk.training.Recipe.read("scenes-small", few)
    >>> from pathlib import Path
    >>> history = dk.training.train(recipe, "out")
    epoch 1/1 ...
    >>> dk.figures.read_run(Path("out")).k
    5
    """
    recipe, history = _read(folder)
    if len(history) < recipe.optim.epochs:
        raise InputError(f"{folder}: {len(history)} of {recipe.optim.epochs} epochs are done; train it to its end first")
    name = models.parse(recipe.model)
    head = name.label if recipe.optim.s is None else "sampled"
    network = networks.load(folder / WEIGHTS)
    return Run(folder, run_label(recipe.model, recipe.to_dict()), head, name.routed, name.depth, recipe, network, history)


def _read(folder: Path) -> tuple[Recipe, list[dict[str, float]]]:
    part = CONFIG
    try:
        (folder / part).stat()  # a missing file is not a damaged one
        recipe = Recipe.from_dict(read_yaml(folder / part, "a training's"))
        recipe.check()
        part = METRICS
        (folder / part).stat()
        history = read_history(folder)
        if not all(isfinite(row[name]) for row in history for name in ("epoch", "top1", "sparse_share")):
            raise ValueError("a number is not finite")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{folder}: no finished training ({Path(error.filename).name} is missing)") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{folder / part}: damaged, or no training's; give a folder that `dynamick train` wrote") from None
    return recipe, history


def group_by_model(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each model, which may be averaged.

    Raises:
        InputError: two of a model differ in more than their seeds.
    """
    groups: dict[str, list[Run]] = {}
    for each in runs:
        first = groups.setdefault(each.model, [each])[0]
        if each is first:
            continue
        changes = differences(each.recipe.to_dict(), first.recipe)
        changes = [line for line in changes if not line.startswith(("seed:", "data.root:"))]
        if changes:
            raise InputError(
                f"{each.folder}: another {each.model} than {first.folder} ({changes[0]}); "
                "only runs that differ in their seeds are averaged"
            )
        groups[each.model].append(each)
    return groups


def first_of_each(runs: Sequence[Run]) -> dict[str, Run]:
    """The first run of each model, in the order of the tables.

    Raises:
        InputError: as `group_by_model`.
    """
    first = [own[0] for own in group_by_model(runs).values()]
    return {run.model: run for run in sorted(first, key=lambda run: rank(run.k, run.head, run.model))}


def refuse_different_data(runs: Sequence[Run], figure: str) -> None:
    """Check that runs are of one set of images, of one size and with the same classes.

    Raises:
        InputError: two are of different data.
    """
    if len({(run.recipe.data.kind, run.recipe.data.size, tuple(run.network.classes)) for run in runs}) > 1:
        raise InputError(f"reproduce {figure}: the runs are of different data; give those of one")


def validation_images(run: Run) -> Any:
    """The validation images of a run's data.

    Raises:
        InputError: they are missing or damaged.
    """
    return open_images(run.recipe.data, "val")
