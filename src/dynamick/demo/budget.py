"""How many epochs the demo's trainings have: what was asked for, what an earlier start had, or what fits into a time."""

import math
from pathlib import Path

from dynamick.durations import in_words
from dynamick.errors import InputError
from dynamick.settings import read_yaml
from dynamick.training import Images, Recipe
from dynamick.training.folder import CONFIG
from dynamick.training.timing import step_seconds

OVERHEAD = 1.2
"""What else an epoch takes: validation and saving are a fifth of its steps."""


def check(minutes: float | None, epochs: int | None) -> None:
    """Raise InputError if a budget is not a time, or not a number of epochs."""
    if minutes is not None and not 0 < minutes < math.inf:
        raise InputError(f"--minutes: {minutes} must be a number above 0")
    if epochs is not None and epochs < 1:
        raise InputError(f"--epochs: {epochs} must be an integer from 1 up")


def fitting(recipe: Recipe, images: Images, minutes: float, heads: int) -> int:
    """As many epochs as fit into a time on this machine: at least one, at most the recipe's. It says if they are fewer.

    Args:
        recipe: one of the trainings; the others take as long.
        images: what they train on.
        minutes: for all trainings together.
        heads: how many trainings there are.
    """
    steps = len(images.train) // recipe.optim.batch_size
    seconds = OVERHEAD * heads * steps * step_seconds(recipe, len(images.train.classes))
    epochs, usual = int(60 * minutes / seconds), recipe.optim.epochs
    if epochs < 1:
        print(f"--minutes {minutes:g} holds not even one epoch a head here; one is done, in {in_words(seconds)}")
    elif epochs < usual:
        print(f"--minutes {minutes:g} holds {counted(epochs)} a head here, of the recipe's {usual}")
    return max(1, min(usual, epochs))


def begun(folder: Path) -> int | None:
    """The epochs of a training that an earlier start began in a folder; None if there is none.

    Raises:
        InputError: what it left is damaged.
    """
    config = folder / CONFIG
    if not config.exists():
        return None
    try:
        return int(read_yaml(config, "a recipe")["optim"]["epochs"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{config}: is damaged, it holds no recipe; --restart begins again") from None


def counted(epochs: int) -> str:
    """Such as `1 epoch`, `7 epochs`."""
    return f"{epochs} epoch{'s' if epochs > 1 else ''}"
