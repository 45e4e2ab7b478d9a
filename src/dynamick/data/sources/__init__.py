"""Where labelled images come from. Each file here is a source with the name of the file, and holds `SOURCE`.

A new source is one new file; nothing else lists them.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynamick.discovery import names_in
from dynamick.errors import InputError

if TYPE_CHECKING:
    from dynamick.data.labelled import LabelledImages


USUAL_SIDE = 64
"""Height and width in pixels where nothing says otherwise."""


def _size(recipe: Any) -> int:
    return int(recipe.size or USUAL_SIDE)


def _nothing(recipe: Any) -> None:
    """Any settings are right; there is nothing to say."""


def _no(recipe: Any) -> bool:
    return False


@dataclass(frozen=True)
class Source:
    """One kind of labelled images. The functions get a `dynamick.data.DataRecipe`.

    Attributes:
        title: for pages and messages, such as `CIFAR-10`.
        open: the images of a recipe and a split.
        side: height and width in pixels of a recipe's images.
        check: raises InputError if a recipe's settings do not fit this source.
        center_crop: whether a recipe's images are evaluated on their middle 7/8 only.
        how_split: a sentence on which of a recipe's images are for validation; None where somebody has parted them.
        needs_root: the images are read from the recipe's folder.
        named_by_root: there are many sets of this kind, and the folder's name tells them apart.
        photographs: False for drawn images.
        splits: what a recipe can be opened for.
    """

    title: str
    open: "Callable[[Any, str], LabelledImages]"
    side: Callable[[Any], int] = _size
    check: Callable[[Any], None] = _nothing
    center_crop: Callable[[Any], bool] = _no
    how_split: Callable[[Any], str | None] = _nothing
    needs_root: bool = True
    named_by_root: bool = False
    photographs: bool = True
    splits: tuple[str, ...] = ("train", "val")


def names() -> list[str]:
    """The names of all sources, in alphabetical order."""
    return names_in(__name__)


def find(name: str) -> Source:
    """The source of a name.

    Raises:
        InputError: there is none.
    """
    if name not in names():
        raise InputError(f"data.kind: {name!r} is unknown; give {', '.join(names())}")
    found: Source = importlib.import_module(f"{__name__}.{name}").SOURCE
    return found
