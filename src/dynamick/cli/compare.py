"""`dynamick compare --weights W.safetensors [...] --out DIR`: every sparse head on the same features, two tables, two plots."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamick.cli import options
from dynamick.data import sources

if TYPE_CHECKING:
    from dynamick.comparison.cells import Job
    from dynamick.data.concepts import ConceptDataset
    from dynamick.data.recipe import DataRecipe
    from dynamick.dissection import Dissection

BUDGETS = (1, 5, 10, 15, 20, 25, 30)
OOD_K = 5
"""Of the routed head that foreign images are told by."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="files of trainings, one for each seed")
    parser.add_argument("--model", help="what the files hold, if not dynamick's own: package.module:function or torchvision's")
    parser.add_argument("--data", choices=sources.names(), help="other data than they were trained on")
    parser.add_argument("--root", help="the data's folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made; the same one resumes")
    parser.add_argument("--heads", nargs="+", help="names of heads (default: all)")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="non-zeros a class, and K (1 5 ... 30)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the heads on each of the weights (default %(default)s)")
    parser.add_argument(
        "--ood",
        nargs="*",
        default=[],
        metavar="KIND:ROOT",
        help="foreign data: cifar10:DIR folder:DIR (DIR/val/CLASS/*) scenes:",
    )
    parser.add_argument("--concepts", type=Path, help="images with label maps, in Broden's form: counts detectors")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default %(default)s)")
    options.add_features(parser)


@dataclass(frozen=True)
class Backbone:
    """One network of the comparison: its file, its name, its kind (such as res8), and the data that it is held against."""

    path: Path
    name: str
    kind: str
    recipe: "DataRecipe"


def run(args: argparse.Namespace) -> None:
    from dynamick.comparison import cells, plots, table
    from dynamick.comparison.cell import FailedCell
    from dynamick.data.checking import open_concepts
    from dynamick.durations import in_words

    check(args)
    concepts = None if args.concepts is None else open_concepts(args.concepts)
    backbones = [_backbone(args, path, name) for path, name in zip(args.weights, backbone_names(args.weights), strict=True)]
    foreign = [_foreign(each) for each in args.ood]
    units = {backbone.name: _cache(args, backbone, foreign, concepts) for backbone in backbones}
    check_alike(backbones, args.out)
    jobs = [job for backbone in backbones for job in _jobs(args, backbone)]
    if jobs:
        about = in_words(cells.estimate(jobs, args.jobs))
        print(f"{sum(len(job.budgets) for job in jobs)} cells to compute, {about} with --jobs {args.jobs}", flush=True)
    cells.run(jobs, args.jobs, progress=True)
    found = [
        (each.kind, each.name, cell)
        for each in backbones
        for cell in cells.load_cells(args.out / "cells" / each.name, args.out / "features" / each.name, units[each.name])
    ]
    rows = table.rows(found)
    table.write(rows, _detection(args, backbones, foreign), args.out)
    plots.write(rows, args.out)
    for line in table.verdict_lines(rows)[3:]:
        print(line)
    failed = sum(isinstance(cell, FailedCell) for _, _, cell in found)
    print(f"written to {args.out}: table.md, table.csv, table.json, static.svg, routed.svg; {failed} cells failed")
    if failed:
        sys.exit(1)


def check(args: argparse.Namespace) -> None:
    """Hold the options to what is allowed, before anything is computed.

    Raises:
        InputError: the first that is not.
    """
    from dynamick.comparison import cells
    from dynamick.data.class_folders import FolderImages
    from dynamick.data.recipe import USUAL_SIZE
    from dynamick.devices import open_device
    from dynamick.errors import InputError

    open_device(args.device)
    for name, value in {"jobs": args.jobs, "seeds": args.seeds, "budgets": min(args.budgets), "size": args.size}.items():
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: give an integer from 1 up")
    cells.check_heads(args.heads or [])
    if args.model and (args.data != "folder" or args.root is None):
        raise InputError("--model: dynamick cannot know a foreign network's data; give --data folder --root DIR")
    foreign = [_foreign(each) for each in args.ood]
    places = [_place(*each) for each in foreign]
    twice = [each for each in places if places.count(each) > 1]
    if twice:
        raise InputError(f"--ood: two sets are called {twice[0].removeprefix('ood-')}; rename one, as they are kept by name")
    for kind, root in foreign:
        if sources.find(kind).named_by_root:
            FolderImages(root, "val", USUAL_SIZE)


def backbone_names(paths: list[Path]) -> list[str]:
    """A name for each file of weights: its folder's for best.safetensors and last.safetensors, else its own.

    Raises:
        InputError: two have the same.
    """
    from dynamick.errors import InputError

    names = [path.resolve().parent.name if path.stem in ("best", "last") else path.stem for path in paths]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"--weights: two files are called {twice[0]}; rename one, as cells are kept by name")
    return names


def check_alike(backbones: list[Backbone], out: Path) -> None:
    """Only what was held against the same images, and has as many units, may be averaged or set side by side.

    Raises:
        InputError: it names two backbones that differ.
    """
    from dynamick.comparison.cache import open_features, read_state
    from dynamick.errors import InputError

    places = [out / "features" / each.name / "val" for each in backbones]
    data = [read_state(place)["key"]["data"] for place in places]
    widths = [open_features(place).x.shape[1] for place in places]
    for each, own_data, own in zip(backbones, data, widths, strict=True):
        if own_data != data[0]:
            raise InputError(f"--weights: {each.path} was trained on other images than {backbones[0].path}; compare them apart")
        first, units = next(pair for pair in zip(backbones, widths, strict=True) if pair[0].kind == each.kind)
        if own != units:
            raise InputError(f"--weights: {each.path} has {own} units and {first.path} {units}; compare them apart")


def _backbone(args: argparse.Namespace, path: Path, name: str) -> Backbone:
    """A network's file and the data that it was trained on, with what the options change."""
    from dynamick.data.recipe import folder_recipe
    from dynamick.errors import InputError
    from dynamick.networks import open_network, read_config
    from dynamick.training.recipe import run_label

    if args.model:
        if not path.exists():
            raise InputError(f"{path}: no such file; give a file of weights")
        # Its size is known when it is loaded.
        recipe = folder_recipe(args.root)
        return Backbone(path, name, args.model, recipe)
    recipe = open_network(path).images(args.data, args.root, args.size)
    config = read_config(path)
    return Backbone(path, name, run_label(config["model"], config["extra"].get("recipe", {})), recipe)


def _cache(
    args: argparse.Namespace, backbone: Backbone, foreign: list[tuple[str, str]], concepts: "ConceptDataset | None"
) -> "Dissection | None":
    """Cache a backbone's features of its own data, and of foreign data; with concepts dissect what enters its head."""
    from dataclasses import replace

    from dynamick.comparison.cache import cache_features
    from dynamick.comparison.detecting import dissect_features
    from dynamick.data.images import check_same_classes
    from dynamick.data.recipe import USUAL_SIZE, DataRecipe, folder_recipe, open_images
    from dynamick.errors import InputError
    from dynamick.networks import open_network

    given = (args.model, backbone.path) if args.model else (backbone.path, None)
    network = open_network(*given, layer=args.layer, **options.preprocessing_of(args))
    model: Any = network.model
    prepare, layer = network.need_preprocessing(), network.need_head()

    def cached(data: Any, place: str) -> None:
        folder = args.out / "features" / backbone.name / place
        cache_features(model, data, folder, prepare, args.dtype, device=args.device, progress=True, layer=layer)

    recipe = replace(backbone.recipe, size=prepare.size or USUAL_SIZE) if args.model else backbone.recipe
    images = {split: open_images(recipe, split) for split in ("train", "val")}
    train = list(images["train"].classes)
    check_same_classes(backbone.recipe.root, train, images["val"].classes)
    if not args.model and train != list(model.classes):
        raise InputError(f"{backbone.path}: was trained on other classes than the data's ({_odd(train, model.classes)})")
    for split, data in images.items():
        cached(data, split)
    for kind, root in foreign:
        own = images["val"].side
        # Foreign images must not be told by how they are cut.
        other = folder_recipe(root, own, recipe) if kind == "folder" else DataRecipe(kind, root)
        cached(open_images(other, "val", own), _place(kind, root))
    if concepts is None:
        return None
    print(f"dissection of {backbone.name}", flush=True)
    # The units must see concepts at the size at which they see their own images.
    prepare = replace(prepare, size=images["val"].side)
    return dissect_features(model, concepts, args.out / "dissections" / backbone.name, prepare, args.device)


def _jobs(args: argparse.Namespace, backbone: Backbone) -> "list[Job]":
    """What is still to be computed on a backbone; detection needs the dense head and one that routes."""
    from dynamick.comparison import cells
    from dynamick.comparison.heads import HEADS

    features, place, heads = args.out / "features" / backbone.name, args.out / "cells" / backbone.name, args.heads or [*HEADS]
    jobs = cells.pending(features, place, heads, args.budgets, range(args.seeds))
    if args.ood and "dense" not in heads:
        jobs += cells.pending(features, place, ["dense"], args.budgets, [0])
    if args.ood and ("dynamic-at-most" not in heads or OOD_K not in args.budgets):
        jobs += cells.pending(features, place, ["dynamic-at-most"], [OOD_K], [0])
    return jobs


def _detection(args: argparse.Namespace, backbones: list[Backbone], foreign: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """AUROC and FPR95 of each score on each foreign set: mean and deviation over backbones of a kind."""
    from statistics import mean, stdev

    from dynamick.comparison import ood
    from dynamick.comparison.cache import open_features
    from dynamick.comparison.cell import load_head
    from dynamick.errors import InputError

    found: dict[tuple[str, str, str, str], list[dict[str, float]]] = {}
    for backbone in backbones if foreign else []:
        place, own = args.out / "features" / backbone.name, args.out / "cells" / backbone.name
        try:
            heads: Any = [load_head(own / name) for name in ("dense-0-0.json", f"dynamic-at-most-{OOD_K}-0.json")]
        except InputError as error:
            print(f"no out-of-distribution detection on {backbone.name}: {error}", flush=True)
            continue
        scores, inside = ood.detectors(open_features(place / "train").x, *heads), open_features(place / "val").x
        for kind, root in foreign:
            outside = open_features(place / _place(kind, root)).x
            # Photographs lie near photographs, and far from generated scenes.
            distance = "near" if sources.find(kind).photographs == backbone.recipe.source.photographs else "far"
            for title, score in scores.items():
                key = (backbone.kind, _place(kind, root).removeprefix("ood-"), distance, title)
                found.setdefault(key, []).append(ood.detection(score, inside, outside))
    rows = []
    for key, values in found.items():
        row: dict[str, Any] = dict(zip(("backbone", "out", "distance", "score"), key, strict=True))
        for figure in ("auroc", "fpr95"):
            each = [value[figure] for value in values]
            row |= {figure: mean(each), f"{figure}_std": stdev(each) if len(each) > 1 else None}
        rows.append(row)
    return rows


def _foreign(given: str) -> tuple[str, str]:
    """KIND and ROOT of an --ood.

    Raises:
        InputError: there is no such kind.
    """
    from dynamick.errors import InputError

    kind, colon, root = given.partition(":")
    if kind not in sources.names() or not colon or (not root and sources.find(kind).needs_root):
        forms = [f"{name}:{'DIR' if sources.find(name).needs_root else ''}" for name in sources.names()]
        raise InputError(f"--ood {given}: give {', '.join(forms[:-1])} or {forms[-1]}")
    return kind, root


def _place(kind: str, root: str) -> str:
    from dynamick.data.recipe import DataRecipe

    return f"ood-{DataRecipe(kind, root).name}"


def _odd(a: list[str], b: list[str]) -> str:
    return ", ".join(sorted(set(a) ^ set(b))[:5]) or "in another order"
