"""What a figure of the paper needs, made where it is missing: trainings by the shipped recipes, and their dissections."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamick.data.concepts import ConceptDataset
    from dynamick.models import Network
    from dynamick.training import DissectEvery
    from dynamick.training.recipe import Recipe

TIMED = 3
"""Steps that are timed to tell how long a training takes, and batches to tell how long a dissection does."""
BATCH = 64
"""Images of such a batch."""
MEASUREMENTS = 10
"""About so often a training's networks are dissected, evenly spaced, where a figure shows scores over training."""
L1 = 0.1
"""The largest strength of L1 that stays within half a point of dense with `cifar10-small` (docs/results/cifar10.md)."""


@dataclass(frozen=True)
class Need:
    """The trainings of one figure: for every seed one of each model.

    Attributes:
        recipes: for each recipe's name the models' suffixes, such as `-d5a` (the recipe's own depth comes before them), or a
            whole name.
    """

    recipes: dict[str, tuple[str, ...]]


CIFAR, PLACES, SCENES = "cifar10-small", "miniplaces64-small", "scenes-small"
NEEDS = {
    "table1": Need({CIFAR: ("", "-d1a", "-d5a", "-d10a", "-d25a", "-d50a", "-d100a", "-l1")}),
    "fig3": Need({SCENES: ("", "-d5a"), "scenes-capsnet": ("capsnet-dynamic", "capsnet-em", "capsnet-simplified")}),
    "fig4": Need({CIFAR: ("", "-d1a", "-d5a", "-l1")}),
    "fig5": Need({PLACES: ("", "-d1a", "-d5a", "-d25a")}),
    "fig6": Need({PLACES: ("", "-d5a")}),
    "fig7": Need({PLACES: ("", "-d5a")}),
    "overlap": Need({SCENES: ("", "-d5a")}),
}


@dataclass(frozen=True)
class Training:
    """One training that a figure needs: its recipe, and its folder."""

    recipe: "Recipe"
    folder: Path

    @property
    def done(self) -> bool:
        """Whether it has come to its end."""
        from dynamick.training.run import RESULT

        return (self.folder / RESULT).exists()

    @property
    def epochs_left(self) -> int:
        """How many of its recipe's epochs are to be done; all of them where its figures cannot be read."""
        from dynamick.errors import InputError
        from dynamick.training import read_history

        try:
            return self.recipe.optim.epochs - len(read_history(self.folder))
        except InputError:
            return self.recipe.optim.epochs

    def refuse_another(self) -> None:
        """Hold what is in the folder, finished or not, to the recipe.

        Raises:
            InputError: it was made by another one; the first setting that differs is named.
        """
        from dynamick.errors import InputError
        from dynamick.training.run import differences_from

        if changes := differences_from(self.folder, self.recipe):
            raise InputError(f"{self.folder}: holds another recipe's training ({changes[0]}); give another --trainings DIR")


def needed(figure: str, folder: Path, seeds: int, root: Path) -> list[Training]:
    """All trainings that a figure needs, in FOLDER/RECIPE/MODEL-SEED; seed by seed, so that an early end leaves whole sets.

    Args:
        root: what the recipes' folders of images are relative to (they say `data`).
    """
    found = []
    for seed in range(seeds):
        for name, models in NEEDS[figure].recipes.items():
            for model in models:
                recipe = recipe_of(name, model, seed, root)
                found.append(Training(recipe, folder / Path(name).stem / f"{recipe.model}-{seed}"))
    return found


def recipe_of(name: str, model: str, seed: int, root: Path) -> "Recipe":
    """A shipped recipe for a model (a suffix or a whole name) and a seed."""
    from dynamick.training.recipe import Recipe

    recipe = Recipe.read(name)
    recipe.model = model if model and not model.startswith("-") else recipe.model.split("-")[0] + model
    recipe.seed = seed
    if model == "-l1":
        recipe.optim.l1 = L1
    parts = Path(recipe.data.root).parts
    if parts and parts[0] == "data":
        recipe.data.root = str(root.joinpath(*parts[1:]))
    return recipe


def train_all(trainings: list[Training], concepts: "ConceptDataset | None" = None) -> list[str]:
    """Train what is not finished, one after the other; says first how long it will take.

    Args:
        concepts: images with label maps; the networks' scores on them are measured during training (`scoring`).

    Returns:
        A line for each that failed, with its reason; the others went on.

    Raises:
        InputError: a folder holds a run of another recipe, finished or not, or the data is missing: nothing can go on then.
    """
    from dynamick.durations import in_words
    from dynamick.errors import InputError
    from dynamick.training import train

    for each in trainings:
        each.refuse_another()
    left = [each for each in trainings if not each.done]
    if not left:
        return []
    seconds = sum(estimates(left)) + (0.0 if concepts is None else sum(scoring_estimates(left, concepts)))
    print(f"{len(left)} of {len(trainings)} trainings to do, {in_words(seconds)}; the same command goes on", flush=True)
    failed = []
    for number, each in enumerate(left, 1):
        print(f"training {number} of {len(left)}: {each.folder}", flush=True)
        try:
            train(each.recipe, each.folder, callbacks=None if concepts is None else [scoring(each.recipe, concepts)])
        except InputError:
            raise
        except Exception as error:
            failed.append(f"{each.folder.name}: failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            print(failed[-1], flush=True)
    return failed


def scoring(recipe: "Recipe", concepts: "ConceptDataset") -> "DissectEvery":
    """Measures during a training what `dissect_all` does after it: about 10 times, the last time at its end."""
    from dynamick.comparison.detecting import features_layer
    from dynamick.training import DissectEvery

    model = untrained(recipe)
    layer = features_layer(model, concepts, model.preprocessing)
    # Where a training diverged, that is told, and not the NaN maps that come of it.
    return DissectEvery(concepts, layer, max(1, round(recipe.optim.epochs / MEASUREMENTS)), allow_nan=True)


def estimates(trainings: list[Training]) -> list[float]:
    """About how many seconds each still takes: some steps of each recipe's first model are timed."""
    from dynamick.data.recipe import open_images

    times: dict[str, float] = {}
    out = []
    for each in trainings:
        data, name = each.recipe.data, each.folder.parent.name
        if name not in times:
            images = open_images(data, "train")
            steps = len(images) // each.recipe.optim.batch_size
            times[name] = steps * step_seconds(each.recipe, len(images.classes))
        out.append(times[name] * each.epochs_left)
    return out


def scoring_estimates(trainings: list[Training], concepts: "ConceptDataset") -> list[float]:
    """About how many seconds of each are dissections to come: some images are dissected with each recipe's first model."""
    times: dict[str, float] = {}
    out = []
    for each in trainings:
        callback, name, last = scoring(each.recipe, concepts), each.folder.parent.name, each.recipe.optim.epochs
        if name not in times:
            times[name] = dissection_seconds(each.recipe, callback)
        left = range(last - each.epochs_left + 1, last + 1)
        out.append(times[name] * sum(callback.due(epoch, last) for epoch in left))
    return out


def dissection_seconds(recipe: "Recipe", callback: "DissectEvery") -> float:
    """The time of one of a training's dissections, from that of some of its images, evenly spaced."""
    from dynamick.data.concepts import part
    from dynamick.data.images import evenly_spaced
    from dynamick.dissection import dissect

    whole = callback.dataset
    some = part(whole, evenly_spaced(len(whole), TIMED * BATCH))
    began = time.perf_counter()
    dissect(untrained(recipe), callback.layer, some, **callback.options)
    return (time.perf_counter() - began) / len(some) * len(whole)


def untrained(recipe: "Recipe", classes: int = 2) -> "Network":
    """A network of a recipe's layers; its weights are random."""
    from dynamick import models
    from dynamick.preprocessing import Preprocessing

    return models.create(recipe.model, classes, recipe.stem, recipe.width, Preprocessing(recipe.data.side))


def step_seconds(recipe: "Recipe", classes: int) -> float:
    """The time of a training step of a recipe, on images of noise."""
    import torch

    from dynamick.training.run import autocast

    side = recipe.data.side
    model = untrained(recipe, classes).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    x, y = torch.rand(recipe.optim.batch_size, 3, side, side), torch.arange(recipe.optim.batch_size) % classes
    began = 0.0
    for step in range(1 + TIMED):
        # The first one warms up.
        if step == 1:
            began = time.perf_counter()
        with autocast(recipe.precision, torch.device("cpu")):
            loss = torch.nn.functional.cross_entropy(model(x).float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - began) / TIMED


def dissect_all(runs: list[Path], concepts: Path, folder: Path) -> None:
    """Dissect the last maps of finished trainings into FOLDER/RUN; what its `state/` says is done is not done again.

    Raises:
        InputError: a folder holds another network's dissection, or as `dynamick.comparison.detecting.dissect_features`.
    """
    from dynamick import checkpoint
    from dynamick.comparison.detecting import dissect_features
    from dynamick.data.checking import open_concepts
    from dynamick.durations import in_words

    done = [(folder / run.resolve().name / "tally.csv").exists() for run in runs]
    took = 0.0
    for number, run in enumerate(runs, 1):
        out, began = folder / run.resolve().name, time.monotonic()
        # Of the first one its own lines say how long it takes.
        rest = f", {in_words(took * done[number - 1 :].count(False))} left" if took else ""
        print(f"dissection {number} of {len(runs)}: {out}{rest}", flush=True)
        model: Any = checkpoint.load(run / "last.safetensors")
        out.mkdir(parents=True, exist_ok=True)
        dissect_features(model, open_concepts(concepts), out, model.preprocessing)
        took = took if done[number - 1] else time.monotonic() - began
