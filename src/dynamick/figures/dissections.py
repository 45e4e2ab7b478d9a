"""The dissections that a figure needs: read for given runs, made for its own trainings, and measured during these."""

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dynamick import networks
from dynamick.comparison.detecting import dissect_features, features_layer
from dynamick.data.checking import open_concepts
from dynamick.data.concepts import ConceptDataset, part
from dynamick.data.images import evenly_spaced
from dynamick.dissection import Dissection, dissect
from dynamick.dissection.saving import recorded
from dynamick.durations import in_words
from dynamick.errors import InputError, Note
from dynamick.explanation import Reader
from dynamick.explanation.dissected import check_fits, read_units
from dynamick.figures.runs import WEIGHTS, Run
from dynamick.figures.trainings import Training
from dynamick.training import DissectEvery
from dynamick.training.recipe import Recipe
from dynamick.training.timing import untrained

TALLY = "tally.csv"
TIMED = 192
"""How many images are dissected to estimate the time of a dissection."""
MEASUREMENTS = 10
"""About how often a training's networks are dissected, evenly spaced, if a figure shows scores over training."""
SCORE = "dissection/mean_score"
"""In a training's history, as `dynamick.training.DissectEvery` logs it."""
NOISE = 0.01
"""A training's last measurement may differ by this part from the dissection of its file, made on another device."""


def read_dissection(folder: Path, run: Run) -> Dissection:
    """The dissection of a run's last maps, FOLDER/RUN/tally.csv, with what dissection.json beside it adds.

    Raises:
        InputError: it is missing or damaged, or of another layer or number of units than the run's head reads.
    """
    path = folder / run.folder.resolve().name / TALLY
    if not path.exists():
        raise InputError(f"{path}: no such file; write it by `dynamick dissect`")
    found, side = read_units(path), run.recipe.data.side
    assert found is not None
    # Noise excites some unit of any network.
    noise = torch.randint(0, 256, (1, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    check_fits(path, found, Reader(run.network), noise)
    return found


def units_of(run: Run) -> Dissection:
    """The dissection of a run, which it must have."""
    assert run.units is not None, f"{run.folder}: no dissection"
    return run.units


def dissected_on(runs: Sequence[Path], dissections: Path, concepts: Path | None, basis: bool = False) -> str:
    """On which concepts runs were dissected, as their `state/` and `concepts` say.

    Args:
        basis: say also that the concepts of IBD are learnt on `concepts`.

    Raises:
        InputError: they were dissected on different data, or `concepts` is no data set of concepts.
    """
    found = {recorded(dissections / run.resolve().name / "state") for run in runs}
    if len(found - {None}) > 1:
        several = " and ".join(sorted(_counted(each) for each in found if each))
        raise InputError(f"{dissections}: the runs were dissected on different data ({several}); give those of one")
    record = next((each for each in found if each), None)
    if concepts is None:
        return f"dissected on {_counted(record)}" if record else "dissected on concepts of which no state/ tells"
    data = open_concepts(concepts)
    given = len(data), len(data.labels)
    named = f"{concepts.absolute().name} ({_counted(given)})"
    seen = f"dissected on {named if record in (None, given) else _counted(record)}"
    return f"{seen}, IBD's concepts of {named}" if basis else seen


def _counted(count: tuple[int, int]) -> str:
    return f"{count[0]:,} images, {count[1]:,} concepts"


def dissect_all(runs: Sequence[Path], concepts: Path, folder: Path) -> None:
    """Dissect the last maps of finished trainings into FOLDER/RUN. What `state/` says is done is not repeated.

    Raises:
        InputError: a folder holds another network's dissection, or as `dynamick.comparison.detecting.dissect_features`.
    """
    done = [(folder / run.resolve().name / TALLY).exists() for run in runs]
    took = 0.0
    for number, run in enumerate(runs, 1):
        out, began = folder / run.resolve().name, time.monotonic()
        # Of the first one its own lines say how long it takes.
        rest = f", {in_words(took * done[number - 1 :].count(False))} left" if took else ""
        print(f"dissection {number} of {len(runs)}: {out}{rest}", flush=True)
        model: Any = networks.load(run / WEIGHTS)
        out.mkdir(parents=True, exist_ok=True)
        dissect_features(model, open_concepts(concepts), out, model.preprocessing)
        took = took if done[number - 1] else time.monotonic() - began


def scoring(recipe: Recipe, concepts: ConceptDataset) -> DissectEvery:
    """Measures during a training what `dissect_all` does after it: about 10 times, the last time at its end."""
    model = untrained(recipe)
    layer = features_layer(model, concepts, model.preprocessing)
    # If a training diverged, this is reported, and not the NaN maps that follow from it.
    return DissectEvery(concepts, layer, max(1, round(recipe.optim.epochs / MEASUREMENTS)), allow_nan=True)


def scoring_estimates(left: Sequence[Training], concepts: ConceptDataset) -> list[float]:
    """About how many seconds of each are dissections to come: some images are dissected with each recipe's first model."""
    times: dict[str, float] = {}
    out = []
    for each in left:
        callback, name, last = scoring(each.recipe, concepts), each.folder.parent.name, each.recipe.optim.epochs
        if name not in times:
            times[name] = dissection_seconds(each.recipe, callback)
        epochs = range(last - each.epochs_left + 1, last + 1)
        out.append(times[name] * sum(callback.due(epoch, last) for epoch in epochs))
    return out


def dissection_seconds(recipe: Recipe, callback: DissectEvery) -> float:
    """The time of one of a training's dissections, from that of some of its images, evenly spaced."""
    whole = callback.dataset
    some = part(whole, evenly_spaced(len(whole), TIMED))
    began = time.perf_counter()
    with warnings.catch_warnings():
        # A part of the images may have too few activations.
        warnings.simplefilter("ignore", Note)
        dissect(untrained(recipe), callback.layer, some, **callback.options)
    return (time.perf_counter() - began) / len(some) * len(whole)
