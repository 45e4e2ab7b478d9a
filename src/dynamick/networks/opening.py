"""`dynamick.open_network`: any network by a name, a function or a file, with all that is known of it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from dynamick import models
from dynamick.data.recipe import DataRecipe
from dynamick.errors import InputError
from dynamick.networks.classes import classes_of
from dynamick.networks.fitting import chosen, put_weights
from dynamick.networks.layers import head_of, outputs_of
from dynamick.networks.network import OpenNetwork
from dynamick.networks.preparing import preprocessing_that_counts
from dynamick.networks.published import shipped
from dynamick.networks.running import check_hooks, unwrapped
from dynamick.networks.saving import Saved, read_if_saved, rebuilt, remember
from dynamick.networks.source import Source
from dynamick.networks.sources import find
from dynamick.networks.weights import read_weights
from dynamick.nn import unit_layer_name

DEFAULT = "DEFAULT"
"""Given in place of a file: the weights that the source publishes."""
IN_A_RUN = ("last.safetensors", "weights.safetensors")
"""The files of weights in a run's folder."""


def open_network(
    spec: str | Path | nn.Module,
    weights: str | Path | None = None,
    *,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Any = None,
    layer: str | None = None,
) -> OpenNetwork:
    """Open a network, in evaluation mode on the CPU.

    Args:
        spec: a file that `dynamick.save` wrote, a run's folder, or the name of a file that comes with the package; or a name of
            any source: `res18-d5a`, `resnet50`, `torchvision:resnet50`, `timm:NAME`, `package.module:function`; or a model,
            which is taken as it is.
        weights: a file that `dynamick.save` wrote, a run's folder, anybody's state dict, or `DEFAULT`: the weights that the
            source publishes. A function may have loaded its own.
        size, mean, std: how its images are prepared, if the network does not say it or you want it otherwise: the side in
            pixels; three numbers each, for R, G, B in 0..1.
        classes: the classes' names in the outputs' order: a text file, one a line, a list or a dictionary.
        layer: dotted name of the linear layer that puts out the logits; None takes what the file says, else the last one.

    Raises:
        InputError: there is no such network, file or layer; the weights do not fit; nothing says what the weights are of; or a
            file's network is made by a function that the user does not name.

    >>> network = dk.open_network(dk.models.create("res8-d5a", 10, stem="compact", width=8))
    >>> network.head, len(network.classes)
    ('fc', 10)
    """
    found = _as_it_is(spec) if isinstance(spec, nn.Module) else _found(str(spec), weights)
    model: Any = found.model.eval()
    if lazy := [each for each, parameter in model.named_parameters() if is_lazy(parameter)]:
        raise InputError(f"model {found.name}: {lazy[0]} has no size yet; let the function run the network once")
    head = head_of(model, found.name, layer)
    prepared = preprocessing_that_counts(getattr(model, "preprocessing", None), found.data, size, mean, std)
    names = classes_of(getattr(model, "classes", None), outputs_of(model, head), classes)
    if classes is not None:
        model.classes = names
    if prepared is not None:
        model.preprocessing = prepared
    if head is not None:
        model.head_name = head
    return replace(
        found,
        head=head,
        layer=unit_layer_name(model) or found.layer,
        preprocessing=prepared,
        classes=names,
        named=classes is not None,
    )


def new_network(spec: str, outputs: int | None = None) -> nn.Module:
    """A network of any source with random weights; nothing is downloaded. A function's comes as the function makes it.

    Args:
        spec: a name of any source.
        outputs: how many classes it must tell apart; None takes the source's own number.

    Raises:
        InputError: no source knows it.

    >>> dk.networks.new_network("resnet18", outputs=4)(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 4])
    """
    source, name = find(spec)
    model = source.build(name, {} if outputs is None else {"outputs": outputs})
    _complete(model, source, name)
    return model


def _as_it_is(model: Any) -> OpenNetwork:
    check_hooks(model)
    model = unwrapped(model)
    origin = getattr(model, "origin", {})
    return OpenNetwork(origin.get("model", type(model).__name__), model)


def _found(spec: str, weights: str | Path | None) -> OpenNetwork:
    if weights is None and is_place(spec):
        file = weights_file(spec)
        saved = read_if_saved(file)
        if saved is None:
            raise InputError(
                f"{spec}: does not say what network it is of; give --model, a torchvision name or package:function"
            )
        return _of_file(saved, None)
    if weights is not None and str(weights) != DEFAULT:
        file = weights_file(weights)
        saved = read_if_saved(file)
        if saved is not None:
            return _of_file(saved, spec)
        return _of_source(spec, file)
    return _of_source(spec, None if weights is None else DEFAULT)


def is_place(spec: str) -> bool:
    """Whether a spec means a file or a folder: it exists, has the ending of a file of weights, or comes with the package."""
    return spec.endswith((".safetensors", ".pt", ".pth")) or Path(spec).exists() or shipped(spec) is not None


def weights_file(path: str | Path) -> Path:
    """The file of weights that is meant: the path itself, that in a run's folder, or one that comes with the package.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    if not path.exists() and (known := shipped(path)) is not None:
        return known
    if not path.exists():
        raise InputError(f"{path}: no such file; give a trained model's file, or the folder of a run")
    if not path.is_dir():
        return path
    file = next((path / name for name in IN_A_RUN if (path / name).exists()), None)
    if file is None:
        raise InputError(f"{path}: holds no {IN_A_RUN[0]}; a training writes it after its first epoch")
    return file


def says_what_it_is(path: str | Path) -> bool:
    """Whether a file (or that in a run's folder) itself says what its network is.

    Raises:
        InputError: there is none, or it is damaged.
    """
    if str(path) == DEFAULT:
        return False
    saved = read_if_saved(weights_file(path), tensors=False)
    return saved is not None and saved.config.get("source") != "function"


def _of_file(saved: Saved, spec: str | None) -> OpenNetwork:
    model = rebuilt(saved, spec)
    extra, name = saved.config["extra"], str(saved.config["model"])
    layer = model.stages[-1] if isinstance(model, models.ResNet) else None
    recipe = _section(extra, "recipe")
    # A training that ended early is done.
    epochs = None if extra.get("stopped") else _section(recipe, "optim").get("epochs")
    return OpenNetwork(
        name,
        model,
        layer=layer,
        data=data_of(saved),
        source=saved.path,
        metrics={key: value for key, value in _section(extra, "metrics").items() if isinstance(value, int | float)},
        epochs=epochs if isinstance(epochs, int) else None,
    )


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    return section if isinstance(section, dict) else {}


def data_of(saved: Saved) -> DataRecipe | None:
    """The images that a file says its network learnt from, if it does.

    Raises:
        InputError: what it says is none.
    """
    data = _section(_section(saved.config["extra"], "recipe"), "data")
    try:
        return DataRecipe(**data) if data else None
    except TypeError as error:
        raise InputError(f"{saved.path}: its data's recipe cannot be read ({error}); it may be damaged") from None


def _of_source(spec: str, weights: str | Path | None) -> OpenNetwork:
    """A network by its name, with the weights of a file that others wrote, its published ones, or those that it comes with."""
    source, name = find(spec)
    if source.own_files and weights is not None:
        # A name of this project's does not say all.
        raise InputError(f"{weights}: no dynamick configuration inside; give a file that dynamick saved of a {name}")
    if weights is None and not source.own_weights:
        kind = "the safetensors of a trained one" if source.own_files else "a state dict's file, or DEFAULT"
        raise InputError(f"model {spec}: needs --weights, {kind}")
    model: Any
    classes: list[str] | None = None
    if weights == DEFAULT:
        if source.published is None:
            raise InputError(f"--weights DEFAULT: nobody publishes those of {spec}; give a file")
        model, classes = source.published(name)
    elif weights is None:
        model = source.build(name, {})
    else:
        model = _with_weights(source, name, weights)
    if classes is not None:
        model.classes = classes
    _complete(model, source, name)
    return OpenNetwork(spec, model, source=weights)


def _complete(model: Any, source: Source, name: str) -> None:
    """Note on a network where it comes from, and how its source says that images are prepared."""
    if getattr(model, "preprocessing", None) is None and (said := source.preprocessing(name, model)) is not None:
        model.preprocessing = said
    remember(model, source, name, None)


def _with_weights(source: Source, name: str, file: str | Path) -> nn.Module:
    """A source's network with a state dict's weights, and as many outputs as that has."""
    found = read_weights(file)
    model = source.build(name, {})
    tensors, reason = chosen(model, found)
    if reason is None and (outputs := _other_outputs(model, tensors)) is not None and not source.runs_code:
        model = source.build(name, {"outputs": outputs})
    if reason is not None or (reason := put_weights(model, tensors)) is not None:
        what = "the model" if source.runs_code else f"a {name}"
        raise InputError(f"{file}: no weights of {what} ({reason}); give its state dict")
    return model


def _other_outputs(model: nn.Module, tensors: dict[str, Any]) -> int | None:
    """How many outputs a state dict's head has, where it has another number than the model's."""
    head = head_of(model, "")
    weight = None if head is None else tensors.get(f"{head}.weight")
    if weight is None or weight.ndim == 0 or len(weight) == outputs_of(model, head):
        return None
    return len(weight)
