"""Every sparse head on the same features of some networks: the comparison in one call."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynamick.comparison import cells, foreign, plots, table
from dynamick.comparison.cache import cache_features, open_features, read_state
from dynamick.comparison.cell import FailedCell
from dynamick.comparison.detecting import dissect_features
from dynamick.comparison.foreign import Foreign
from dynamick.comparison.heads import HEADS
from dynamick.data.checking import open_concepts
from dynamick.data.concepts import ConceptDataset
from dynamick.data.images import check_same_classes
from dynamick.data.labelled import LabelledImages
from dynamick.data.recipe import DataRecipe, open_images
from dynamick.devices import open_device
from dynamick.dissection import Dissection
from dynamick.durations import in_words
from dynamick.errors import InputError
from dynamick.files import alone, take_leftovers_away
from dynamick.networks.network import OpenNetwork
from dynamick.networks.saving import read_if_saved
from dynamick.training.recipe import run_label

BUDGETS = (1, 5, 10, 15, 20, 25, 30)


@dataclass(frozen=True)
class Compared:
    """The outcome of a comparison.

    Attributes:
        rows: of the table, as `dynamick.comparison.table.rows` makes them.
        detection: rows on foreign images; empty if there are none.
        failed: how many cells failed.

    >>> dk.comparison.Compared(rows=[], detection=[], failed=0).failed
    0
    """

    rows: list[dict[str, Any]]
    detection: list[dict[str, Any]]
    failed: int


@dataclass(frozen=True)
class Backbone:
    """One network of the comparison.

    Attributes:
        name: its cells and features are kept by it.
        kind: networks of one kind are averaged.
        network: it.
        recipe: the images with which it is compared.
        out: the comparison's folder.
    """

    name: str
    kind: str
    network: OpenNetwork
    recipe: DataRecipe
    out: Path

    @property
    def features(self) -> Path:
        """The folder of its features."""
        return self.out / "features" / self.name

    @property
    def cells(self) -> Path:
        """The folder of its cells."""
        return self.out / "cells" / self.name

    @property
    def where(self) -> str:
        """For messages: the file of its weights."""
        return str(self.network.source or self.name)


def compare(
    networks: Mapping[str, OpenNetwork],
    out: str | Path,
    heads: Sequence[str] | None = None,
    budgets: Sequence[int] = BUDGETS,
    seeds: int = 3,
    *,
    kind: str | None = None,
    root: str | None = None,
    size: int | None = None,
    ood: Iterable[str] = (),
    concepts: str | Path | ConceptDataset | None = None,
    jobs: int = 1,
    dtype: str = "float32",
    device: str = "cpu",
    tell: Callable[[str], None] = print,
) -> Compared:
    """Train every head on what enters the networks' heads, and write two tables and two plots; the same call resumes.

    Writes table.md, table.csv, table.json, static.svg and routed.svg into the folder, and keeps features and cells there.

    Args:
        networks: by their names, as `dynamick.open_network` opens them; one for each training seed.
        out: the folder for what is made.
        heads: names of `HEADS`; None takes all.
        budgets: non-zeros a class, and K.
        seeds: of the heads, on each network.
        kind, root, size: other images than a network learnt from: their source, its folder, their side in pixels.
        ood: foreign images, each as KIND:ROOT, such as `folder:DIR` (DIR/val/CLASS/*).
        concepts: images with label maps, or their directory; adds how many units that a head uses detect a concept.
        jobs: processes at once.
        dtype: of the cached features, `float32` or `bfloat16`.
        device: where the networks run; heads are trained on the CPU.
        tell: is called with a line about the next step.

    Raises:
        InputError: an option is not what it may be; the images are missing or damaged, or of other classes than a network
            learnt; two networks differ in their images or units; the folder holds features or cells of something else, or
            another process is at work in it.

    >>> import os
    >>> from PIL import Image
    >>> for number in range(24):
    ...     _ = os.makedirs(f"photos/{'ab'[number % 2]}", exist_ok=True)
    ...     Image.new("RGB", (16, 16), ("red", "blue")[number % 2]).save(f"photos/{'ab'[number % 2]}/{number}.png")
    >>> network = dk.open_network(dk.models.create("res8", 2, stem="compact", width=8, classes=["a", "b"]))
    >>> data = dk.data.image_folder("photos", "train", size=32)
    >>> images = {"kind": "folder", "root": "photos", "size": 32}
    >>> found = dk.comparison.compare({"mine": network}, "out", ["dense"], seeds=1, **images, tell=lambda line: None)
    >>> [row["head"] for row in found.rows]
    ['dense']
    """
    check(heads or [], budgets, seeds, jobs, device)
    check_names(networks)
    others = foreign.read_foreign(ood)
    seen = open_concepts(concepts) if isinstance(concepts, str | Path) else concepts
    out = Path(out)
    backbones = [
        Backbone(name, _kind(network), network, network.images(kind, root, size), out) for name, network in networks.items()
    ]
    for said in sorted({said for each in backbones if (said := each.recipe.how_split) is not None}):
        tell(said)
    with alone(out):
        for each in backbones:
            take_leftovers_away(each.cells)
        units = {each.name: _prepare(each, others, seen, dtype, device, tell) for each in backbones}
        check_alike(backbones)
        left = [job for each in backbones for job in _jobs(each, heads or [*HEADS], budgets, seeds, bool(others))]
        if left:
            about = in_words(cells.estimate(left, jobs))
            tell(f"{sum(len(job.budgets) for job in left)} cells to compute, {about} with --jobs {jobs}")
        cells.run(left, jobs, progress=True)
        found = [(each, cell) for each in backbones for cell in cells.load_cells(each.cells, each.features, units[each.name])]
        rows = table.rows((each.kind, each.name, cell) for each, cell in found)
        detection = foreign.averaged(row for each in backbones if others for row in _detected(each, others, tell))
        table.write(rows, detection, out)
        plots.write(rows, out)
    return Compared(rows, detection, sum(isinstance(cell, FailedCell) for _, cell in found))


def check(heads: Sequence[str], budgets: Sequence[int], seeds: int, jobs: int, device: str) -> None:
    """Check the settings before anything is computed.

    Raises:
        InputError: the first that is not.
    """
    open_device(device)
    for name, value in {"jobs": jobs, "seeds": seeds, "budgets": min(budgets, default=0)}.items():
        if value < 1:
            raise InputError(f"--{name} {value}: give an integer from 1 up")
    cells.check_heads(heads)


def check_names(names: Iterable[str]) -> None:
    """Cells and features are kept in folders of these names.

    Raises:
        InputError: there is none, or one that is no folder's name.
    """
    if not (given := list(names)):
        raise InputError("networks: there is none; give one or more, by their names")
    if odd := [name for name in given if name in ("", ".", "..") or Path(name).name != name]:
        raise InputError(f"networks: {odd[0]!r} is no name for a folder; give a plain one")


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each file of weights: its folder's for best.safetensors and last.safetensors, else its own.

    Raises:
        InputError: two have the same.
    """
    names = [path.resolve().parent.name if path.stem in ("best", "last") else path.stem for path in paths]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--weights: two files are called {twice[0]}; rename one, as cells are kept by name")
    return names


def check_alike(backbones: Sequence[Backbone]) -> None:
    """Only networks with the same images and as many units may be averaged or compared.

    Raises:
        InputError: two backbones differ; it names them.
    """
    first = backbones[0]
    data = [read_state(each.features / "val")["key"]["data"] for each in backbones]
    widths = [open_features(each.features / "val").x.shape[1] for each in backbones]
    for each, own_data, own in zip(backbones, data, widths, strict=True):
        if own_data != data[0]:
            raise InputError(f"--weights: {each.where} was trained on other images than {first.where}; compare them apart")
        other, units = next(pair for pair in zip(backbones, widths, strict=True) if pair[0].kind == each.kind)
        if own != units:
            raise InputError(f"--weights: {each.where} has {own} units and {other.where} {units}; compare them apart")


def _kind(network: OpenNetwork) -> str:
    """What networks must share to be averaged."""
    saved = read_if_saved(network.source, tensors=False) if isinstance(network.source, Path) else None
    return network.name if saved is None else run_label(network.name, saved.config["extra"].get("recipe", {}))


def _prepare(
    backbone: Backbone,
    others: Sequence[Foreign],
    concepts: ConceptDataset | None,
    dtype: str,
    device: str,
    tell: Callable[[str], None],
) -> Dissection | None:
    """Cache a backbone's features of its own images and of foreign ones; with concepts dissect what enters its head."""
    network, recipe = backbone.network, backbone.recipe
    prepare, layer = network.need_preprocessing(), network.need_head()

    def cached(images: LabelledImages, place: str) -> None:
        cache_features(
            network.model, images, backbone.features / place, prepare, dtype, device=device, progress=True, layer=layer
        )

    train, val = (open_images(recipe, split) for split in ("train", "val"))
    if train.labels.ndim > 1:
        raise InputError(f"{recipe.where}: images with several labels; heads are compared on images of one class each")
    check_same_classes(recipe.root, train.classes, val.classes)
    said = getattr(network.model, "classes", None)
    if network.data is not None and said is not None and list(train.classes) != list(said):
        raise InputError(f"{backbone.where}: was trained on other classes than the data's ({_odd(train.classes, said)})")
    cached(train, "train")
    cached(val, "val")
    for each in others:
        cached(each.open(val, recipe), each.place)
    found = None
    if concepts is not None:
        tell(f"dissection of {backbone.name}")
        # The units must see concepts at the same size as their own images.
        seen = replace(prepare, size=val.side)
        found = dissect_features(network.model, concepts, backbone.out / "dissections" / backbone.name, seen, device)
    network.model.cpu()
    return found


def _jobs(backbone: Backbone, heads: Sequence[str], budgets: Sequence[int], seeds: int, detect: bool) -> list[cells.Job]:
    """The cells that a backbone still needs. Detection needs the dense head and one that routes."""
    jobs = cells.pending(backbone.features, backbone.cells, heads, budgets, range(seeds))
    if detect and "dense" not in heads:
        jobs += cells.pending(backbone.features, backbone.cells, ["dense"], budgets, [0])
    if detect and ("dynamic-at-most" not in heads or foreign.K not in budgets):
        jobs += cells.pending(backbone.features, backbone.cells, ["dynamic-at-most"], [foreign.K], [0])
    return jobs


def _detected(backbone: Backbone, others: Sequence[Foreign], tell: Callable[[str], None]) -> list[tuple[str, dict[str, Any]]]:
    try:
        rows = foreign.detected(backbone.features, backbone.cells, others, backbone.recipe)
    except InputError as error:
        tell(f"no out-of-distribution detection on {backbone.name}: {error}")
        return []
    return [(backbone.kind, row) for row in rows]


def _odd(a: Iterable[str], b: Iterable[str]) -> str:
    return ", ".join(sorted(set(a) ^ set(b))[:5]) or "in another order"
