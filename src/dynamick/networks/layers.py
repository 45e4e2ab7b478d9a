"""A network's head and its Dynamic-K layers as plain values for a file: read from a model, and put into a new one."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.nn import (
    DynamicConv2d,
    DynamicLinear,
    Place,
    UnitLayer,
    convert,
    find_classifier,
    owner_of,
    put_units,
    unit_layer,
)
from dynamick.nn.convert import check_parameters


def head_of(model: nn.Module, name: str, layer: str | None = None) -> str | None:
    """The dotted name of the linear layer that puts out the logits: the one that is named, else `find_classifier`'s.

    Args:
        model: the network.
        name: what it is called, for messages.
        layer: what the user names.

    Returns:
        None if nothing is named and none is found.

    Raises:
        InputError: there is no such layer, it is another kind of layer, or its weight is computed.
    """
    if layer is None:
        try:
            return find_classifier(model)
        except ValueError:
            return None
    try:
        module = model.get_submodule(layer)
    except AttributeError as error:
        raise InputError(f"--layer {layer}: {error}") from None
    if not isinstance(module, nn.Linear | nn.Conv2d):
        raise InputError(f"--layer {layer}: a {type(module).__name__}; name the linear layer that puts out the logits")
    check_parameters(layer, module)
    return layer


def outputs_of(model: nn.Module, head: str | None) -> int | None:
    """How many classes the head puts out; None without one."""
    weight: Any = None if head is None else getattr(model.get_submodule(head), "weight", None)
    return None if weight is None else len(weight)


@torch.no_grad()
def reorder(head: Any, order: list[int]) -> None:
    """Put a head's outputs in another order, in place: weight, bias, and the mask of a Dynamic-K head."""
    for values in (head.weight, head.bias):
        if values is not None:
            values.copy_(values[order])
    if getattr(head, "mask", None) is not None:
        head.set_mask(head.mask[order])


def routed_layers(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The Dynamic-K layers by their dotted names, as plain values."""
    found: dict[str, dict[str, Any]] = {}
    for name, module in model.named_modules():
        if isinstance(module, DynamicLinear):
            found[name] = {"k": module.k, "rule": module.rule, "threshold": module.threshold}
        elif isinstance(module, DynamicConv2d):
            found[name] = {"k": module.k, "rule": module.rule, "routing": module.routing}
    return found


def put_layers(model: nn.Module, head: str | None, routed: dict[str, dict[str, Any]], tensors: dict[str, Tensor]) -> None:
    """Give a new network the layers that a file says: Dynamic-K layers, and heads with as many outputs as the weights.

    Raises:
        AttributeError, KeyError: the network has no such layer, or the file no such weight.
        ValueError, TypeError: K, the rule or the like is none.
    """
    for name in {*routed, *([] if head is None else [head])}:
        _give_shape(model, name, tensors[f"{name}.weight"], f"{name}.bias" in tensors)
    for name, about in routed.items():
        options = {key: value for key, value in about.items() if key in ("k", "rule")}
        convert(model, layers=name, **options)
        layer: Any = model.get_submodule(name)
        layer.threshold = about.get("threshold", "activations")
        if isinstance(layer, DynamicConv2d):
            layer.routing = about.get("routing", "location")


def units_of(model: nn.Module) -> dict[str, Any] | None:
    """Where the unit layer is, as plain values; None without one."""
    layer: Any = unit_layer(model)
    return None if layer is None else asdict(layer.place)


def put_unit_layer(model: nn.Module, place: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Give a new network the unit layer that a file's has; its head has as many inputs already.

    Raises:
        AttributeError, KeyError: the network has no such place, or the file no such weights.
        TypeError, ValueError: the place is none.
    """
    where = Place(**place)
    weight = tensors[".".join(filter(None, (owner_of(model, where), "units.conv.weight")))]
    put_units(model, where, UnitLayer(weight.shape[1], weight.shape[0]))


def _give_shape(model: nn.Module, name: str, weight: Tensor, bias: bool) -> None:
    """Replace a dense layer whose weight has another shape than a file's."""
    old: Any = model.get_submodule(name)
    if old.weight.shape == weight.shape and (old.bias is not None) == bias:
        return
    if weight.ndim == 2:
        new: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias)
    else:
        kept = {key: getattr(old, key) for key in ("stride", "padding", "dilation", "groups", "padding_mode")}
        height, width = weight.shape[2:]
        new = nn.Conv2d(weight.shape[1] * old.groups, weight.shape[0], (height, width), bias=bias, **kept)
    model.set_submodule(name, new)
