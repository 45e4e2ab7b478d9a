"""Foreign images, of classes that a network does not know, and how well scores tell them from its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dynamick.comparison import ood
from dynamick.comparison.cache import open_features
from dynamick.comparison.cell import load_head
from dynamick.data import sources
from dynamick.data.labelled import LabelledImages
from dynamick.data.recipe import USUAL_SIZE, DataRecipe, folder_recipe, open_images
from dynamick.errors import InputError

K = 5
"""Of the routed head that tells them."""
HEADS = {"dense": "dense-0-0.json", "dynamic-at-most": f"dynamic-at-most-{K}-0.json"}
"""The heads that tell them, and the files of their cells."""


@dataclass(frozen=True)
class Foreign:
    """A set of foreign images: a source's name, and the folder where it needs one."""

    kind: str
    root: str

    @property
    def name(self) -> str:
        """The name under which it is kept and shown."""
        return DataRecipe(self.kind, self.root).name

    @property
    def place(self) -> str:
        """The folder of its features."""
        return f"ood-{self.name}"

    def open(self, own: LabelledImages, recipe: DataRecipe) -> LabelledImages:
        """Its validation images, prepared as the network's own: the way they are cut must not give them away.

        Args:
            own: the network's images.
            recipe: and what they are.
        """
        other = folder_recipe(self.root, own.side, recipe) if self.named_by_root else DataRecipe(self.kind, self.root)
        return open_images(other, "val", own.side)

    @property
    def named_by_root(self) -> bool:
        return sources.find(self.kind).named_by_root


def read_foreign(given: Iterable[str]) -> list[Foreign]:
    """What `KIND:ROOT` names, each.

    Raises:
        InputError: there is no such kind or folder, or two sets have the same name.
    """
    found = [_read(each) for each in given]
    names = [each.name for each in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--ood: two sets are called {twice[0]}; rename one, as they are kept by name")
    for each in found:
        if each.named_by_root:
            # Checked here, and not after hours of work.
            open_images(folder_recipe(each.root, USUAL_SIZE), "val")
    return found


def _read(given: str) -> Foreign:
    kind, colon, root = given.partition(":")
    if kind not in sources.names() or not colon or (not root and sources.find(kind).needs_root):
        forms = [f"{name}:{'DIR' if sources.find(name).needs_root else ''}" for name in sources.names()]
        raise InputError(f"--ood {given}: give {', '.join(forms[:-1])} or {forms[-1]}")
    return Foreign(kind, root)


def detected(features: Path, cells: Path, foreign: Sequence[Foreign], own: DataRecipe) -> list[dict[str, Any]]:
    """How well each score tells each foreign set from one network's own images.

    Args:
        features, cells: the network's folders.
        foreign: their features lie beside the network's own.
        own: the network's images.

    Returns:
        Rows of `out` (the set), `distance` (`near` or `far`), `score`, `auroc` and `fpr95` (%).

    Raises:
        InputError: a head that tells them is not finished.
    """
    heads: Any = [load_head(cells / name) for name in HEADS.values()]
    scores, inside = ood.detectors(open_features(features / "train").x, *heads), open_features(features / "val").x
    rows = []
    for each in foreign:
        outside = open_features(features / each.place).x
        # Photographs are near photographs and far from generated scenes.
        distance = "near" if sources.find(each.kind).photographs == own.source.photographs else "far"
        for title, score in scores.items():
            about = {"out": each.name, "distance": distance, "score": title}
            rows.append({**about, **ood.detection(score, inside, outside)})
    return rows


def averaged(found: Iterable[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Mean and deviation (None of one network) over the networks of a kind.

    Args:
        found: the kind of a network, and a row of `detected`.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for backbone, row in found:
        groups.setdefault((backbone, row["out"], row["distance"], row["score"]), []).append(row)
    rows = []
    for key, each in groups.items():
        row = dict(zip(("backbone", "out", "distance", "score"), key, strict=True))
        for figure in ("auroc", "fpr95"):
            values = [one[figure] for one in each]
            row |= {figure: mean(values), f"{figure}_std": stdev(values) if len(values) > 1 else None}
        rows.append(row)
    return rows
