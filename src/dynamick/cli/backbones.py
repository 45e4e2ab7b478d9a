"""Networks and the images that they are held against, as `dynamick compare` and `dynamick retrofit` open them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from dynamick.data.recipe import DataRecipe
    from dynamick.preprocessing import Preprocessing


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


def data_recipe(path: Path, kind: str | None, root: str | None, size: int | None = None) -> "DataRecipe":
    """The data that a file of dynamick's was trained on, or what the options say, shown as it saw its own.

    Raises:
        InputError: the file does not say on what it was trained, and no option does.
    """
    from dataclasses import replace

    from dynamick import checkpoint
    from dynamick.data.recipe import USUAL_SIZE, DataRecipe, folder_recipe
    from dynamick.errors import InputError

    config = checkpoint.read_config(path)
    known = data_of(config)
    if known is None and kind is None:
        raise InputError(f"{path}: does not say on which data it was trained; give --data and --root")
    if kind == "folder" and (known is None or known.kind != kind):
        known = folder_recipe("data", known.side if known else config["preprocessing"]["size"] or USUAL_SIZE, known)
    known = known or DataRecipe()
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
    from dynamick.data.recipe import DataRecipe

    data = config["extra"].get("recipe", {}).get("data")
    return DataRecipe(**data) if data else None
