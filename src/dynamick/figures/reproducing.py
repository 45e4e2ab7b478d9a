"""A figure of the paper, from given trainings or its own."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dynamick.data.checking import open_concepts
from dynamick.errors import InputError
from dynamick.figures.dissections import dissect_all, dissected_on, read_dissection, scoring, scoring_estimates
from dynamick.figures.figure import Material, PaperFigure, find
from dynamick.figures.page import Page
from dynamick.figures.runs import Run, read_run
from dynamick.figures.trainings import train_all, trainings
from dynamick.files import why_no_folder


def reproduce(
    figure: str,
    runs: Sequence[str | Path] = (),
    out: str | Path = "reproduced",
    *,
    seeds: int = 3,
    data: str | Path = "data",
    trainings: str | Path | None = None,
    dissections: str | Path | None = None,
    concepts: str | Path | None = None,
) -> Page:
    """Make a table or figure of the paper, its numbers beside ours; writes NAME.md, NAME.json and NAME.svg.

    Args:
        figure: its name (`dynamick.figures.names`), such as `table1`.
        runs: folders that `dynamick train` wrote. None: it trains what it needs, where that is not there, and dissects it.
        out: the folder for what is made.
        seeds: how many trainings of each model, of its own.
        data: the folder that holds CIFAR-10, miniplaces64 and minibroden.
        trainings: the folder for its own trainings; by default OUT/runs. The same one resumes.
        dissections: the folder that holds RUN/tally.csv of each run, for figures of dissected networks; what dissection.json
            beside it says is read too. By default OUT/dissections for its own trainings.
        concepts: the images with label maps that were dissected; by default DATA/minibroden for its own trainings.

    Returns:
        The page, as it was written. Its `failed` has a line for each training that failed; the others are on it.

    Raises:
        InputError: no such figure, or what it needs is missing, damaged, or does not fit together.

    >>> import os
    >>> from PIL import Image
    >>> for number in range(24):
    ...     _ = os.makedirs(f"photos/{'ab'[number % 2]}", exist_ok=True)
    ...     Image.new("RGB", (16, 16), ("red", "blue")[number % 2]).save(f"photos/{'ab'[number % 2]}/{number}.png")
    >>> for model in ("res8", "res8-d2a"):
    ...     few = {"model": model, "stem": "patch", "width": 8, "data.kind": "folder", "data.root": "photos"}
    ...     recipe = dk.training.Recipe.read(None, few | {"data.size": 16, "optim.epochs": 1, "optim.batch_size": 8})
    ...     history = dk.training.train(recipe, f"runs/{model}")
    epoch 1/1 ...
    >>> page = dk.figures.reproduce("table1", ["runs/res8", "runs/res8-d2a"], "reproduced")
    >>> [row["model"] for row in page.rows]
    ['res8-d2a', 'res8']
    """
    found, out, given = find(figure), Path(out), [Path(run) for run in runs]
    dissections, concepts = (None if each is None else Path(each) for each in (dissections, concepts))
    _check(found, given, out, seeds, dissections)
    failed: list[str] = []
    if found.needs and not given:
        if found.dissected:
            concepts, dissections = concepts or Path(data) / "minibroden", dissections or out / "dissections"
        given, failed = _make_runs(found, Path(trainings or out / "runs"), seeds, Path(data), concepts, dissections)
    try:
        page = found.page(_material(found, given, seeds, concepts, dissections), failed)
    except InputError as error:
        # The figure may lack what failed.
        raise InputError("; ".join([str(error), *failed])) from error
    page.write(out)
    return page


def _make_runs(
    figure: PaperFigure, folder: Path, seeds: int, data: Path, concepts: Path | None, dissections: Path | None
) -> tuple[list[Path], list[str]]:
    """Train and dissect what the figure needs and does not have: the runs' folders, and a line for each failure."""
    # Checked before hours of training.
    labelled = None if concepts is None else open_concepts(concepts)
    needed = trainings(figure.needs, folder, seeds, data)
    if figure.scored and labelled is not None:
        failed = train_all(
            needed,
            lambda recipe: [scoring(recipe, labelled)],
            lambda left: sum(scoring_estimates(left, labelled)),
        )
    else:
        failed = train_all(needed)
    runs = [each.folder for each in needed if each.done]
    if not runs:
        raise InputError(f"reproduce {figure.name}: no training came to its end ({failed[0]})")
    if concepts is not None and dissections is not None:
        dissect_all(runs, concepts, dissections)
    return runs, failed


def _material(
    figure: PaperFigure, folders: list[Path], seeds: int, concepts: Path | None, dissections: Path | None
) -> Material:
    """Read what the figure is made from."""
    runs = [_read(figure, folder) for folder in folders]
    if not figure.dissected or dissections is None:
        return Material(runs, seeds, concepts=concepts)
    runs = [replace(run, units=read_dissection(dissections, run)) for run in runs]
    seen = dissected_on(folders, dissections, concepts, figure.uses_concepts)
    return Material(runs, seeds, dissections, concepts, seen)


def _read(figure: PaperFigure, folder: Path) -> Run:
    run = read_run(folder)
    allowed = figure.trained_on
    if allowed and run.recipe.data.kind not in allowed:
        kind = run.recipe.data.kind
        raise InputError(f"{folder}: trained on {kind}; the paper's {figure.name} is of {' or '.join(allowed)}")
    return run


def _check(figure: PaperFigure, runs: list[Path], out: Path, seeds: int, dissections: Path | None) -> None:
    """Check the arguments.

    Raises:
        InputError: no seeds, runs where none is read, a run given twice, no dissections of given runs where they are needed,
            or a file in the place of a folder.
    """
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: give an integer from 1 up")
    if runs and not figure.needs:
        raise InputError(f"reproduce {figure.name}: {runs[0]} would not be read; give no runs, it trains its own networks")
    # Dissections of given runs are read only.
    written = {"out": out} if runs or dissections is None else {"out": out, "dissections": dissections}
    for option, folder in written.items():
        if (why := why_no_folder(folder)) is not None:
            raise InputError(f"--{option} {folder}: {why}; give another name")
    if runs and figure.dissected and dissections is None:
        raise InputError(f"reproduce {figure.name}: give --dissections DIR, with RUN/tally.csv of each run")
    _refuse_twice(runs, figure.dissected)


def _refuse_twice(runs: list[Path], dissected: bool) -> None:
    """A run counts once. If runs are dissected, their folders' names must also differ.

    Raises:
        InputError: two are one, or have one name.
    """
    places = [path.resolve() for path in runs]
    names = [place.name for place in places]
    for path, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"{path}: is given twice; give each run once")
        if dissected and names.count(place.name) > 1:
            raise InputError(f"{path}: two runs are called {place.name}; rename one, as dissections are found by name")
