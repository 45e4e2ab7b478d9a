"""`dynamick dissect --model M --weights W --layer L --data DIR --out DIR`, and `dynamick dissect check DIR`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dynamick.data.concepts import ConceptDataset
    from dynamick.dissection import Dissection
    from dynamick.preprocessing import Preprocessing

HELP = "Network Dissection: which concept each unit detects"
WRAPPED = "module."
PICTURED = 42
"""Of so many units, the best, the gallery shows the top images."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("check", nargs="*", metavar="check DIR", help="only look for what is wrong in a data directory")
    parser.add_argument("--model", help="res18-d5a, package.module:function that returns a model, or a torchvision name")
    parser.add_argument(
        "--weights", help="safetensors of dynamick, a state dict (.pt, .pth, .safetensors), or torchvision's DEFAULT"
    )
    parser.add_argument("--layer", help="dotted name, such as layer4")
    parser.add_argument("--data", type=Path, help="a directory in Broden's format, or with images/ beside masks/CONCEPT/")
    parser.add_argument("--out", type=Path, help="folder for tally.csv, dissection.json and units.png; the same one resumes")
    parser.add_argument("--rule", default="netdissect", choices=("netdissect", "lite"), help="when an image's mask counts")
    parser.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="subtracted from RGB in 0..1")
    parser.add_argument("--std", type=float, nargs=3, metavar=("R", "G", "B"), help="what the difference is divided by")
    parser.add_argument("--size", type=int, help="side in pixels that images are resized to")
    parser.add_argument("--quantile", type=float, default=0.995, help="of the threshold (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images a forward pass (default %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images (default: in this one)")
    parser.add_argument("--device", help="cpu, cuda, ...; by default an accelerator where there is one")
    parser.add_argument("--allow-nan", action="store_true", help="rank NaN activations lowest instead of refusing them")
    parser.add_argument("--restart", action="store_true", help="begin again whatever is in --out")
    parser.epilog = "Several processes: torchrun --nproc-per-node N -m dynamick.cli dissect ..."


def run(args: argparse.Namespace) -> None:
    """Check a directory, or dissect a model and write what was found."""
    from dynamick.errors import InputError

    if args.check:
        if len(args.check) != 2 or args.check[0] != "check":
            raise InputError(f"dissect {' '.join(args.check)}: give `dynamick dissect check DIR`, or options only")
        _check(args.check[1])
        return
    missing = [name for name in ("model", "layer", "data", "out") if getattr(args, name) is None]
    if missing:
        raise InputError(f"dissect: --{missing[0]} is missing; see dynamick dissect --help")
    _dissect(args)


def _check(directory: str) -> None:
    from dynamick.data.checking import check
    from dynamick.errors import InputError

    problems = check(directory)
    for problem in problems:
        print(problem)
    if problems:
        raise InputError(f"{directory}: {len(problems)} problem{'s' if len(problems) > 1 else ''} found; they are listed above")
    print(f"{directory}: nothing is wrong")


def _dissect(args: argparse.Namespace) -> None:
    from dynamick.data.checking import open_concepts
    from dynamick.dissection import dissect, shards
    from dynamick.errors import InputError
    from dynamick.files import why_no_folder

    if args.workers < 0:
        raise InputError(f"--workers {args.workers}: give a number of processes from 0 up")
    device = open_device(args.device)
    # It is made when there is something to write.
    if (why := why_no_folder(args.out)) is not None:
        raise InputError(f"--out {args.out}: {why}; give a folder of your own")
    dataset = open_concepts(args.data)
    model = load_model(args.model, args.weights)
    with shards.processes():
        result = dissect(
            model,
            args.layer,
            dataset,
            args.rule,
            preprocessing=_preprocessing(model, args),
            batch_size=args.batch_size,
            quantile=args.quantile,
            state=args.out / "state",
            restart=args.restart,
            device=device,
            workers=args.workers,
            allow_nan=args.allow_nan,
        )
        if shards.rank() == 0:
            _write(result, model, dataset, args)


def open_device(name: str | None) -> "torch.device | None":
    """The device of that name, or an accelerator where there is one.

    Raises:
        InputError: this machine has no such device.
    """
    import torch

    from dynamick.errors import InputError

    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return here
    refused = InputError(f"--device {name}: not a device of this machine; give cpu, or cuda where there is one")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise refused from error
    accelerator = here is not None and device.type == here.type and (device.index or 0) < torch.accelerator.device_count()
    if device.type != "cpu" and not accelerator:
        raise refused
    return device


def _write(result: "Dissection", model: "nn.Module", dataset: "ConceptDataset", args: argparse.Namespace) -> None:
    from dynamick.dissection import gallery
    from dynamick.files import write_atomically

    args.out.mkdir(parents=True, exist_ok=True)
    result.write_tally(args.out / "tally.csv")
    write_atomically(args.out / "dissection.json", result.to_json().encode())
    best = result.scores.argsort(kind="stable")[::-1][:PICTURED].tolist()
    examples = gallery.examples(model, dataset, result, best, preprocessing=_preprocessing(model, args))
    gallery.sheet(examples).save(args.out / "units.png")
    found = result.summary()
    print(f"units            {found.units}")
    print(f"mean score       {found.mean_score:.4f}")
    print(f"detectors        {found.detectors} (score of 0.04 or more)")
    print(f"distinct labels  {found.distinct_labels}")
    print(f"written to       {args.out}/tally.csv, dissection.json, units.png")


def _preprocessing(model: "nn.Module", args: argparse.Namespace) -> "Preprocessing | None":
    """The model's own with what the options change, at the size of the images that it learnt from; None where nothing says."""
    from dataclasses import replace

    from dynamick.cli.backbones import trained_on
    from dynamick.errors import InputError
    from dynamick.preprocessing import Preprocessing

    given = {name: getattr(args, name) for name in ("size", "mean", "std") if getattr(args, name) is not None}
    own = getattr(model, "preprocessing", None)
    if isinstance(own, Preprocessing):
        seen = trained_on(args.weights) if own.size is None else None
        return replace(own, **({} if seen is None else {"size": seen.side}) | given)
    if not given:
        return None
    if {"mean", "std"} - set(given):
        raise InputError("dissect: the model does not say how its images are prepared; give both --mean and --std")
    return Preprocessing(**given)


def load_model(name: str, weights: str | None) -> "nn.Module":
    """The model of a name: dynamick's own, `package.module:function`, torchvision's, or one of these with retrofit's head.

    Raises:
        InputError: there is no such model, or the weights are missing or do not fit.
    """
    from dynamick.cli.subjects import metadata_of, retrofitted
    from dynamick.errors import InputError

    if weights is not None and {"classifier", "model"} <= (said := metadata_of(Path(weights))).keys():
        if said["model"] != name:
            raise InputError(f"{weights}: holds a {said['model']}, not a {name}; give --model {said['model']}")
        return retrofitted(Path(weights), said)
    if ":" in name:
        return _from_function(name, weights)
    if name.startswith("capsnet") or (name.startswith("res") and not name.startswith("resne")):
        from dynamick import checkpoint, models

        models.parse(name)
        if weights is None:
            raise InputError(f"dissect: --model {name} needs --weights, the safetensors file of a trained one")
        held = checkpoint.read_config(weights)["model"]
        if held != name:
            raise InputError(f"{weights}: holds a {held}, not a {name}; give --model {held}")
        return checkpoint.load(weights)
    return _from_torchvision(name, weights)


def _from_function(name: str, weights: str | None) -> "nn.Module":
    import importlib
    import sys

    from torch import nn

    from dynamick.errors import InputError

    package, _, function = name.partition(":")
    # A user's own module lies where the command is given.
    sys.path.insert(0, str(Path.cwd()))
    try:
        try:
            make = getattr(importlib.import_module(package), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"--model {name}: {error}; give package.module:function") from error
        # The function may import more of the user's own.
        model = make()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"--model {name}: {type(error).__name__}: {error}; mend the function, which takes nothing") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(model, nn.Module):
        raise InputError(f"--model {name}: returns a {type(model).__name__}; it must return a torch.nn.Module")
    return _with_weights(model, weights) if weights else model


def _from_torchvision(name: str, weights: str | None) -> "nn.Module":
    """Torchvision's network, with as many outputs as a file of weights has."""
    from dynamick.errors import InputError
    from dynamick.torchvision_shim import torchvision

    if name not in torchvision.models.list_models():
        raise InputError(f"--model {name}: unknown; give res18-d5a or the like, package.module:function, or torchvision's name")
    if weights is None:
        raise InputError(f"--model {name}: needs --weights, a state dict's file or torchvision's DEFAULT")
    if weights == "DEFAULT":
        try:
            model = torchvision.models.get_model(name, weights=weights)
        except OSError as error:
            raise InputError(
                f"--weights DEFAULT: {name}'s could not be downloaded ({error}); give a state dict's file"
            ) from error
    else:
        tensors = unwrapped(read_weights(weights))
        model = torchvision_model(name)
        rows = _rows_of_head(model, tensors)
        if rows is not None:
            model = torchvision_model(name, num_classes=rows)
        put_weights(model, tensors, weights, f"a {name}")
    model.preprocessing = torchvision_preprocessing(name, model)
    return model


def _rows_of_head(model: "nn.Module", tensors: "dict[str, Tensor]") -> int | None:
    """How many outputs a file's classifier has, where it has another number than the model's; else None."""
    from dynamick.nn import find_classifier

    try:
        head = f"{find_classifier(model)}.weight"
    except ValueError:
        return None
    own, given = model.state_dict()[head], tensors.get(head)
    return None if given is None or len(given) == len(own) else len(given)


def torchvision_model(name: str, **options: Any) -> Any:
    """A new network of torchvision's; nothing is downloaded."""
    import inspect

    from dynamick.torchvision_shim import torchvision

    if "weights_backbone" in inspect.signature(torchvision.models.get_model_builder(name)).parameters:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        # Else it warns that its initialisation takes long.
        options["init_weights"] = False
    return torchvision.models.get_model(name, **options)


def torchvision_preprocessing(name: str, model: Any = None) -> "Preprocessing":
    """How torchvision prepares a network's images; 224 pixels where it does not say. A transformer takes its own size alone."""
    from dynamick.preprocessing import Preprocessing
    from dynamick.torchvision_shim import torchvision

    try:
        transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        size = getattr(model, "image_size", transforms.crop_size[0])
        return Preprocessing(size, tuple(transforms.mean), tuple(transforms.std))
    except (AttributeError, TypeError, ValueError):
        return Preprocessing(size=224)


def _with_weights(model: "nn.Module", path: str) -> "nn.Module":
    tensors = read_weights(path)
    if not all(name.startswith(WRAPPED) for name in model.state_dict()):
        tensors = unwrapped(tensors)
    put_weights(model, tensors, path, "the model")
    return model


def read_weights(path: str | Path) -> "dict[str, Tensor]":
    """The state dict in a file, also where a checkpoint holds it as `state_dict` or `model`.

    Raises:
        InputError: there is no such file, it cannot be read, or it holds no state dict.
    """
    import pickle

    import numpy as np
    import torch
    from safetensors.torch import load_file

    from dynamick.errors import InputError

    advice = "give a state dict, saved by torch.save(model.state_dict(), FILE)"
    try:
        # Trainings keep their options and figures beside the weights: torchvision's a Namespace, many NumPy's numbers.
        numbers = [np.dtype, *{type(np.dtype(each)) for each in "?bhilqBHILQefd"}]
        scalar: Any = np.float64(0).__reduce__()[0]
        harmless = [argparse.Namespace, *numbers, scalar, (scalar, "numpy.core.multiarray.scalar")]
        with torch.serialization.safe_globals(harmless):
            read: Any = (
                load_file(path)
                if str(path).endswith(".safetensors")
                else torch.load(path, map_location="cpu", weights_only=True)
            )
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {advice}") from None
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: a whole model, or no weights at all; {advice}") from error
    except Exception as error:
        reason = " ".join(str(error).split()).split(". ")[0][:200]
        raise InputError(f"{path}: cannot be read, it may be truncated or damaged ({reason}); {advice}") from error
    for name in ("state_dict", "model"):
        if isinstance(read, dict) and isinstance(read.get(name), dict):
            read = read[name]
    if not isinstance(read, dict) or not any(isinstance(value, torch.Tensor) for value in read.values()):
        raise InputError(f"{path}: holds a {type(read).__name__}, and no state dict; {advice}")
    return read


def unwrapped(tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """A state dict without the `module.` that DataParallel puts before every name."""
    if all(name.startswith(WRAPPED) for name in tensors):
        return {name.removeprefix(WRAPPED): tensor for name, tensor in tensors.items()}
    return tensors


def put_weights(model: "nn.Module", tensors: "dict[str, Tensor]", path: str | Path, what: str) -> None:
    """Load a state dict into a model.

    Raises:
        InputError: it does not fit; the message names the first weight that does not.
    """
    from dynamick.errors import InputError

    try:
        model.load_state_dict(tensors)
    except Exception as error:
        reason = _misfit(model.state_dict(), tensors) or " ".join(str(error).split())[:200]
        raise InputError(f"{path}: no weights of {what} ({reason}); give its state dict") from error


def _misfit(own: "dict[str, Tensor]", given: "dict[str, Tensor]") -> str | None:
    lacking, odd = [name for name in own if name not in given], [name for name in given if name not in own]
    if lacking or odd:
        names, said = (lacking, "they lack") if lacking else (odd, "the model has no")
        return f"{said} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    for name, tensor in own.items():
        found, wanted = (tuple(getattr(each, "shape", ())) for each in (given[name], tensor))
        if found != wanted:
            return f"{name} has the shape {found}, not {wanted}"
    return None
