"""The trainings that a figure needs, by the shipped recipes. Missing ones are made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from dynamick.data.recipe import open_images
from dynamick.durations import in_words
from dynamick.errors import InputError
from dynamick.training import read_history, train
from dynamick.training.folder import RESULT, differences_from
from dynamick.training.recipe import Recipe
from dynamick.training.timing import step_seconds

CIFAR, PLACES, SCENES, CAPSULES = "cifar10-small", "miniplaces64-small", "scenes-small", "scenes-capsnet"
L1 = 0.1
"""The largest strength of L1 that stays within half a point of dense with `cifar10-small` (docs/results/cifar10.md)."""


@dataclass(frozen=True)
class Training:
    """One training that a figure needs: its recipe, and its folder."""

    recipe: Recipe
    folder: Path

    @property
    def done(self) -> bool:
        """Whether it has come to its end."""
        return (self.folder / RESULT).exists()

    @property
    def epochs_left(self) -> int:
        """How many of its recipe's epochs are still to be done; all of them if its history cannot be read."""
        try:
            return self.recipe.optim.epochs - len(read_history(self.folder))
        except InputError:
            return self.recipe.optim.epochs

    def refuse_another(self) -> None:
        """Check that the training in the folder, finished or not, is by this recipe.

        Raises:
            InputError: it was made by another one; the first setting that differs is named.
        """
        if changes := differences_from(self.folder, self.recipe):
            raise InputError(f"{self.folder}: holds another recipe's training ({changes[0]}); give another --trainings DIR")


def trainings(needs: Mapping[str, Sequence[str]], folder: Path, seeds: int, root: Path) -> list[Training]:
    """All trainings that a figure needs, in FOLDER/RECIPE/MODEL-SEED. Seed by seed: an early end leaves whole sets.

    Args:
        needs: as `dynamick.figures.PaperFigure.needs`.
        root: what the recipes' folders of images are relative to (they say `data`).
    """
    found = []
    for seed in range(seeds):
        for name, suffixes in needs.items():
            for suffix in suffixes:
                recipe = recipe_of(name, suffix, seed, root)
                found.append(Training(recipe, folder / Path(name).stem / f"{recipe.model}-{seed}"))
    return found


def recipe_of(name: str, model: str, seed: int, root: Path) -> Recipe:
    """A shipped recipe for a model (a suffix or a whole name) and a seed."""
    recipe = Recipe.read(name)
    recipe.model = model if model and not model.startswith("-") else recipe.model.split("-")[0] + model
    recipe.seed = seed
    if model == "-l1":
        recipe.optim.l1 = L1
    parts = Path(recipe.data.root).parts
    if parts and parts[0] == "data":
        recipe.data.root = str(root.joinpath(*parts[1:]))
    return recipe


def train_all(
    needed: Sequence[Training],
    callbacks: Callable[[Recipe], list[Callback]] | None = None,
    more_seconds: Callable[[Sequence[Training]], float] | None = None,
) -> list[str]:
    """Train what is not finished, one after the other. First it says how long this will take.

    Args:
        callbacks: makes the Lightning callbacks of a training from its recipe.
        more_seconds: about how long these take in the trainings that are left.

    Returns:
        A line for each that failed, with its reason; the others went on.

    Raises:
        InputError: a folder holds a run of another recipe, finished or not, or the data is missing: nothing can go on then.
    """
    for each in needed:
        each.refuse_another()
    left = [each for each in needed if not each.done]
    if not left:
        return []
    seconds = sum(estimates(left)) + (more_seconds(left) if more_seconds else 0.0)
    print(f"{len(left)} of {len(needed)} trainings to do, {in_words(seconds)}; the same command goes on", flush=True)
    failed = []
    for number, each in enumerate(left, 1):
        print(f"training {number} of {len(left)}: {each.folder}", flush=True)
        try:
            train(each.recipe, each.folder, callbacks=callbacks(each.recipe) if callbacks else None)
        except InputError:
            raise
        except Exception as error:
            failed.append(f"{each.folder.name}: failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            print(failed[-1], flush=True)
    return failed


def estimates(left: Sequence[Training]) -> list[float]:
    """About how many seconds each still takes: some steps of each recipe's first model are timed."""
    times: dict[str, float] = {}
    out = []
    for each in left:
        data, name = each.recipe.data, each.folder.parent.name
        if name not in times:
            images = open_images(data, "train")
            steps = len(images) // each.recipe.optim.batch_size
            times[name] = steps * step_seconds(each.recipe, len(images.classes))
        out.append(times[name] * each.epochs_left)
    return out
