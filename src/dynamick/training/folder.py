"""A run's folder: which run it holds, what is in it, and how it begins again."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from dynamick import processes
from dynamick.errors import InputError
from dynamick.files import alone, is_utf8, why_no_folder, write_atomically
from dynamick.settings import read_yaml
from dynamick.training.recipe import Recipe, differences

CONFIG, RESULT, METRICS, STATE = "config.yaml", "result.json", "metrics.csv", "last.ckpt"
TRACKED = ("tensorboard", "csv", "mlflow", "wandb")
"""The experiment trackers, and the folders that they write."""
# They are removed in this order. The recipe is last: a killed restart must not leave a state without its recipe.
OURS = (RESULT, STATE, METRICS, "last.safetensors", "best.safetensors", "pruned.safetensors", *TRACKED, CONFIG)


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep other runs out of a folder. Of several processes under torchrun the first one does it for all.

    Raises:
        InputError: another run is at work in it, it cannot be written to, or its name is no UTF-8.
    """
    if not is_utf8(str(out)):
        raise InputError(f"{str(out)!a}: is no name in UTF-8, which TensorBoard's logs need; give another folder")
    if (why := why_no_folder(out)) is not None:
        raise InputError(f"{out}: cannot be written ({why}); give a folder that can")
    if not processes.first():
        yield
        return
    with alone(out):
        yield


def state_of(out: Path) -> str | None:
    """The file that a run is resumed from; None if there is none yet."""
    return str(out / STATE) if (out / STATE).exists() else None


def differences_from(out: Path, recipe: Recipe) -> list[str]:
    """In what a recipe differs from that of the run in a folder, as `recipe.differences`; nothing if there is none yet.

    Raises:
        InputError: what the folder keeps is no recipe.
    """
    config = out / CONFIG
    if not config.exists() or not any((out / name).exists() for name in (STATE, METRICS, RESULT)):
        # Without these it never began.
        return []
    try:
        return differences(Recipe.from_dict(read_yaml(config, "a recipe")).to_dict(), recipe)
    except InputError:
        raise InputError(f"{config}: is damaged, it holds no recipe; give another folder") from None


def refuse_another(out: Path, recipe: Recipe) -> None:
    """Raise InputError if a folder holds another recipe's run."""
    if changes := differences_from(out, recipe):
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        raise InputError(f"{out}: holds another run ({changes[0]}{more}); give another folder, or --restart")


def open_folder(out: Path, recipe: Recipe, restart: bool) -> None:
    """Write a run's recipe into its folder; with `restart`, take away first what is to be begun again.

    Raises:
        InputError: it cannot be written to.
        OSError: the disk is full.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in OURS if restart else ():
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
        if state_of(out) is None or not (out / CONFIG).exists():
            write_atomically(out / CONFIG, yaml.safe_dump(recipe.to_dict(), sort_keys=False).encode())
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise InputError(f"{out}: cannot be written ({error.strerror}); give a folder that can") from None
