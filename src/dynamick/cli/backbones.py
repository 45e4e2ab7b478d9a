"""Networks and the images that they are held against, as `dynamick compare` and `dynamick retrofit` open them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from dynamick.data.images import FolderImages, ImageTensors
    from dynamick.preprocessing import Preprocessing
    from dynamick.training.recipe import DataRecipe

USUAL_SIZE = 224
"""In pixels, of a folder's images where nothing says another."""


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of networks that dynamick did not make."""
    parser.add_argument("--layer", help="the linear layer that puts out the logits (default: the last one)")
    parser.add_argument("--size", type=int, help="side of the images in pixels (default: the model's own, or 224)")
    parser.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="subtracted from RGB in 0..1")
    parser.add_argument("--std", type=float, nargs=3, metavar=("R", "G", "B"), help="what the difference is divided by")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the cached features")
    parser.add_argument("--device", default="cpu", help="where the network runs; heads are trained on the CPU")


def load_network(name: str, weights: str | Path | None) -> "nn.Module":
    """The network of a name (`dynamick.cli.dissect.load_model`); torchvision's with as many outputs as its file has.

    Raises:
        InputError: as there, or its sizes are not known before it has seen an image.
    """
    from torch.nn.parameter import is_lazy

    from dynamick.cli.dissect import load_model
    from dynamick.errors import InputError

    if weights is None and ":" not in name:
        raise InputError(f"--weights: --model {name} needs a file of trained weights")
    model = load_model(name, str(weights) if weights else None)
    if lazy := [each for each, parameter in model.named_parameters() if is_lazy(parameter)]:
        raise InputError(f"--model {name}: {lazy[0]} has no size yet; let the function run the network once")
    return model


def classifier_of(model: "nn.Module", name: str, layer: str | None = None) -> str:
    """The dotted name of the layer whose place a head takes: the one that --layer names, else the last linear one.

    Raises:
        InputError: there is none, it is another kind of layer, or its weight is computed.
    """
    from torch import nn

    from dynamick.errors import InputError
    from dynamick.nn import find_classifier
    from dynamick.nn.convert import check_parameters

    try:
        found = find_classifier(model) if layer is None else layer
        module = model.get_submodule(found)
    except ValueError as error:
        raise InputError(f"--model {name}: {error}") from None
    except AttributeError as error:
        raise InputError(f"--layer {layer}: {error}") from None
    if not isinstance(module, nn.Linear | nn.Conv2d):
        raise InputError(f"--layer {found}: a {type(module).__name__}; name the linear layer that puts out the logits")
    check_parameters(found, module)
    return found


def preprocessing_of(model: "nn.Module", args: argparse.Namespace) -> "Preprocessing":
    """The model's own preprocessing, with what --size, --mean and --std change.

    Raises:
        InputError: the model has none, and --mean and --std do not give it.
    """
    from dataclasses import replace

    from dynamick.errors import InputError
    from dynamick.preprocessing import Preprocessing

    options: dict[str, Any] = {"size": args.size, "mean": args.mean and tuple(args.mean), "std": args.std and tuple(args.std)}
    given = {name: value for name, value in options.items() if value is not None}
    own = getattr(model, "preprocessing", None)
    if isinstance(own, Preprocessing):
        return replace(own, **given)
    if {"mean", "std"} - set(given):
        raise InputError("--mean, --std: the model does not say how its images are prepared; give both")
    return Preprocessing(**given)


def shows_middle(trained_on: "DataRecipe | None") -> bool:
    """Whether a network is evaluated on the middle 7/8 of its images, as most are; else on the whole shorter side."""
    return trained_on is None or (trained_on.kind == "folder" and not trained_on.in_memory)


def load_folder(root: str | Path, split: str, size: int | None, trained_on: "DataRecipe | None" = None) -> Any:
    """A user's images of one split as a network saw its own, at a size, else at its own, else at 224 pixels.

    Raises:
        InputError: as `dynamick.data.images`.
    """
    from dynamick.data.images import FolderImages, image_folder

    side = size or (USUAL_SIZE if trained_on is None else trained_on.side)
    return FolderImages(root, split, side) if shows_middle(trained_on) else image_folder(root, split, side)


def data_recipe(path: Path, kind: str | None, root: str | None, size: int | None = None) -> "DataRecipe":
    """The data that a file of dynamick's was trained on, or what the options say, shown as it saw its own.

    Raises:
        InputError: the file does not say on what it was trained, and no option does.
    """
    from dataclasses import replace

    from dynamick import checkpoint
    from dynamick.errors import InputError
    from dynamick.training.recipe import DataRecipe

    config = checkpoint.read_config(path)
    known = data_of(config)
    if known is None and kind is None:
        raise InputError(f"{path}: does not say on which data it was trained; give --data and --root")
    if known is None:
        usual = DataRecipe(kind="folder", size=config["preprocessing"]["size"] or USUAL_SIZE, in_memory=False)
        known = usual if kind == "folder" else DataRecipe()
    elif kind == "folder" and known.kind != "folder":
        known = DataRecipe(kind="folder", size=known.side)
    changes: dict[str, Any] = {"kind": kind, "root": root, "size": size}
    return replace(known, **{key: value for key, value in changes.items() if value is not None})


def trained_on(weights: str | Path | None) -> "DataRecipe | None":
    """The data that a file of dynamick's says it was trained on; None where it says nothing, or is another's."""
    from dynamick import checkpoint
    from dynamick.errors import InputError

    try:
        return None if weights is None else data_of(checkpoint.read_config(weights))
    except InputError:
        return None


def data_of(config: dict[str, Any]) -> "DataRecipe | None":
    """The data that a file's configuration (`dynamick.checkpoint.read_config`) names, if any."""
    from dynamick.training.recipe import DataRecipe

    data = config["extra"].get("recipe", {}).get("data")
    return DataRecipe(**data) if data else None


def kind_of(model: str, recipe: "dict[str, Any]") -> str:
    """What trainings must share to be averaged: the model's name, and what else of a recipe makes its head another one."""
    rule, after, optim = recipe.get("rule", "at_most"), recipe.get("static_after"), recipe.get("optim", {})
    parts = [model, *([rule] if rule != "at_most" else []), *([f"static after {after} epochs"] if after else [])]
    parts += [f"strength {optim['l1']:g}"] if optim.get("l1") else []
    if optim.get("s") is not None:
        parts += [f"s = {optim['s']:g}", f"K = {optim['block_size']}", optim["form"], optim["estimate"]]
        parts += [] if optim["beta"] is None else [f"beta = {optim['beta']:g}"]
    return ", ".join(parts)


def open_data(recipe: "DataRecipe", split: str, size: int | None = None) -> "ImageTensors | FolderImages":
    """A recipe's images; with a size, resized to it (foreign images must not be told by their size)."""
    from dataclasses import replace
    from functools import partial

    import torch
    import torch.nn.functional as F

    from dynamick.data.images import ImageTensors
    from dynamick.training.data import load_images

    data = load_images(recipe if size is None else replace(recipe, size=size), split)
    if size is not None and isinstance(data, ImageTensors) and data.images.shape[-1] != size:
        resize = partial(F.interpolate, size=(size, size), mode="bilinear", antialias=True)
        resized = [resize(part.float()).round().clamp(0, 255).byte() for part in data.images.split(1024)]
        data = ImageTensors(torch.cat(resized), data.labels, data.classes)
    return data


def side(data: "ImageTensors | FolderImages") -> int:
    """The images' side in pixels."""
    from dynamick.data.images import FolderImages

    return data.size if isinstance(data, FolderImages) else data.images.shape[-1]
