"""The networks that `dynamick explain` explains: dynamick's own files, what `retrofit` wrote, and anybody's state dicts."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import nn

    from dynamick.dissection import Dissection
    from dynamick.preprocessing import Preprocessing


@dataclass(frozen=True)
class Subject:
    """A network to be explained.

    Attributes:
        file: where its weights came from.
        name: for example `res8-d5a`, or `resnet50`.
        model: in evaluation mode, with its `preprocessing`.
        classes: the classes' names.
        units: the dissection of the layer that enters its head, or None.
        metrics: what its training measured last, by name; empty where the file does not say.
        epochs: how many epochs its training has in all; None where the file does not say.
        size: side in pixels of the images that it was trained on, or that its preprocessing makes; None where nobody says.
        center_crop: whether it sees the middle 7/8 of its images, as those for 224 pixels are usually evaluated, or all.
    """

    file: Path
    name: str
    model: "nn.Module"
    classes: list[str]
    units: "Dissection | None" = None
    metrics: dict[str, float] = field(default_factory=dict)
    epochs: int | None = None
    size: int | None = None
    center_crop: bool = True

    @property
    def accuracy(self) -> float | None:
        """Top-1 on held-out images, 0..1."""
        return self.metrics["top1"] / 100 if "top1" in self.metrics else None

    @property
    def state(self) -> str | None:
        """A sentence on how far the training is; None where it is done, or the file does not say."""
        epoch = int(self.metrics.get("epoch", 0))
        if self.epochs is None or not 0 < epoch < self.epochs:
            return None
        return f"These are the weights after epoch {epoch} of {self.epochs}: the training goes on, or was not finished."


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of networks whose files do not say what they are."""
    parser.add_argument("--size", type=int, help="side of the images in pixels (default: the model's own, or 224)")
    group = parser.add_argument_group("of weights that dynamick did not write")
    group.add_argument("--model", help="what they are of: a torchvision name, or package.module:function that returns a model")
    group.add_argument("--classes", type=Path, metavar="FILE.txt", help="the classes' names, one a line, in the outputs' order")
    group.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="subtracted from RGB in 0..1")
    group.add_argument("--std", type=float, nargs=3, metavar=("R", "G", "B"), help="what the difference is divided by")


def check_options(args: argparse.Namespace, paths: list[Path]) -> None:
    """Hold the options of `add_network_arguments` to what they can be, and to weights that need them.

    Raises:
        InputError: the first that is wrong, or that no file needs; or there is no such file.
    """
    from dynamick.errors import InputError

    if args.size is not None and args.size < 1:
        raise InputError(f"--size {args.size}: give a number of pixels from 1 up")
    if all(metadata_of(_weights_of(path)).get("dynamick") for path in paths):
        for name in ("model", "classes", "mean", "std"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name}: {paths[0]} says that itself; the option is for weights of others")


def open_subject(path: Path, units: "Dissection | None", args: argparse.Namespace) -> Subject:
    """The network in a file or in a run's folder; `--model` says what it is where the file does not.

    Raises:
        InputError: there are no such weights, they do not fit, or nobody says what they are.
    """
    from dynamick.errors import InputError

    file = _weights_of(path)
    metadata = metadata_of(file)
    if "dynamick" in metadata:
        return _own(file, units)
    model: Any
    classes: list[str] | None
    if "classifier" in metadata:
        name, model, classes = metadata["model"], retrofitted(file, metadata), metadata["classes"].split("\n")
    elif args.model is None:
        raise InputError(f"{path}: does not say what network it is of; give --model, a torchvision name or package:function")
    else:
        name, model, classes = args.model, *_foreign(file, args.model)
    model.preprocessing = _preprocessing(model, args)
    return Subject(file, name, model.eval(), _classes(model, classes, args.classes), units, size=model.preprocessing.size)


def _weights_of(path: Path) -> Path:
    from dynamick.errors import InputError

    if not path.exists() and str(path) != "DEFAULT":
        raise InputError(f"{path}: no such file; give a trained model's file, or the folder of a run")
    if not path.is_dir():
        return path
    file = next((path / name for name in ("last.safetensors", "weights.safetensors") if (path / name).exists()), None)
    if file is None:
        raise InputError(f"{path}: holds no last.safetensors; a training writes it after its first epoch")
    return file


def metadata_of(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself; nothing where it is no such file."""
    import safetensors

    try:
        with safetensors.safe_open(file, "pt") as opened:
            return dict(opened.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        if file.suffix != ".safetensors":
            return {}
    # One of dynamick's, missing or damaged: the loader says which.
    return {"dynamick": ""}


def _own(file: Path, units: "Dissection | None") -> Subject:
    from dynamick import checkpoint
    from dynamick.cli.backbones import data_of

    config, model = checkpoint.read_config(file), checkpoint.load(file)
    # A training that runs may have replaced the file between the two.
    while (now := checkpoint.read_config(file)) != config:
        config, model = now, checkpoint.load(file)
    extra: dict[str, Any] = config["extra"]
    recipe, own = extra.get("recipe", {}), cast(Any, model)
    seen = data_of(config)
    size = own.preprocessing.size or (None if seen is None else seen.side)
    classes, epochs = [str(name) for name in own.classes], recipe.get("optim", {}).get("epochs")
    metrics = extra.get("metrics", {})
    return Subject(file, config["model"], model, classes, units, metrics, epochs, size, seen is None or seen.center_crop)


def retrofitted(file: Path, about: dict[str, str]) -> "nn.Module":
    """A network whose head `dynamick retrofit` replaced; the file says by what."""
    import json

    import safetensors.torch

    from dynamick.cli.dissect import load_model, torchvision_model
    from dynamick.errors import InputError
    from dynamick.nn import DynamicLinear
    from dynamick.preprocessing import Preprocessing
    from dynamick.torchvision_shim import torchvision

    name = about["model"]
    model = torchvision_model(name) if name in torchvision.models.list_models() else load_model(name, None)
    tensors = safetensors.torch.load_file(file)
    try:
        weight = tensors[f"{about['classifier']}.weight"]
        head = DynamicLinear(weight.shape[1], weight.shape[0], int(about["k"]), rule=about["rule"])
        model.set_submodule(about["classifier"], head)
        if "transform_input" in about:
            model.transform_input = True
        if name == "googlenet" and not any(key.startswith("aux") for key in tensors):
            # As the published weights come, without the auxiliary heads.
            model.aux1 = model.aux2 = None
        model.load_state_dict(tensors)
        if "preprocessing" in about:
            # The size that its head was made for, among others.
            model.preprocessing = Preprocessing.from_dict(json.loads(about["preprocessing"]))
    except (KeyError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: its weights do not fit the {name} that it says it is of ({reason})") from None
    return model


def _foreign(file: Path, name: str) -> tuple["nn.Module", list[str] | None]:
    from dynamick.cli.backbones import load_network
    from dynamick.errors import InputError
    from dynamick.torchvision_shim import torchvision

    if str(file) != "DEFAULT":
        if not file.exists():
            raise InputError(f"{file}: no such file; give the state dict of a trained {name}")
        return load_network(name, file), None
    model = load_network(name, "DEFAULT")
    return model, torchvision.models.get_model_weights(name).DEFAULT.meta.get("categories")


def _preprocessing(model: Any, args: argparse.Namespace) -> "Preprocessing":
    from dynamick.cli.backbones import preprocessing_of
    from dynamick.data.recipe import USUAL_SIZE
    from dynamick.preprocessing import Preprocessing
    from dynamick.torchvision_shim import torchvision

    own = getattr(model, "preprocessing", None)
    if own is None and type(model).__module__.startswith(torchvision.__name__):
        model.preprocessing = Preprocessing(size=USUAL_SIZE)
    return preprocessing_of(model, args)


def _classes(model: Any, said: list[str] | None, file: Path | None) -> list[str]:
    """The classes' names: those of a file, else what the weights say, else the outputs' numbers."""
    from dynamick.errors import InputError
    from dynamick.explanation.head import find_head

    outputs = find_head(model).weight.shape[0]
    names = said or [str(name) for name in getattr(model, "classes", None) or range(outputs)]
    if file is not None:
        try:
            names = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--classes {file}: cannot be read ({error}); give a text file, one class a line") from None
    if len(names) != outputs:
        raise InputError(f"{file or 'classes'}: {len(names)} names for {outputs} outputs; give one a line for each output")
    model.classes = names
    return names
