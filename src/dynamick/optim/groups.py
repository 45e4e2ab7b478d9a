"""Parameter groups: a head's weight with a decay of its own, and what Interpretable SGD samples."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from dynamick.errors import InputError
from dynamick.nn import DynamicConv2d, DynamicLinear, RoutingCapsules, find_classifier


def parameter_groups(model: nn.Module, weight_decay: float = 5e-4, head_weight_decay: float = 1e-2) -> list[dict[str, Any]]:
    """Two groups for any optimiser: all but the routed weights, and the routed weights with a decay of their own.

    A weight that is never routed gets no gradient, so decay alone drives it to zero. Without enough of it the head stays dense.

    Args:
        model: any network; the weights of its Dynamic-K layers (or routing capsules) are the second group, or of its
            classifier if it has none.
        weight_decay: of the first group.
        head_weight_decay: of the second. 1e-2 suits SGD with a rate of 0.1; AdamW, which multiplies by the rate, needs 1 to 10.

    Raises:
        InputError: a decay is negative, or the network has no classifier.

    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> [group["weight_decay"] for group in dk.parameter_groups(model, weight_decay=5e-4, head_weight_decay=1e-2)]
    [0.0005, 0.01]
    """
    for name, decay in (("weight_decay", weight_decay), ("head_weight_decay", head_weight_decay)):
        if not 0 <= decay < float("inf"):
            raise InputError(f"{name}: {decay} must be a number from 0 up")
    layers = [each for each in model.modules() if isinstance(each, DynamicLinear | DynamicConv2d | RoutingCapsules)]
    try:
        layers = layers or [model.get_submodule(find_classifier(model))]  # type: ignore[list-item]
    except ValueError as error:
        raise InputError(str(error)) from None
    routed = {id(layer.weight): layer.weight for layer in layers}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in routed]
    return [
        {"params": rest, "weight_decay": weight_decay},
        {"params": list(routed.values()), "weight_decay": head_weight_decay},
    ]


def sampled_groups(model: nn.Module, layers: str | Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Parameter groups for `InterpretableSGD`: the weights to sample, and all other parameters with s=None.

    Args:
        model: any module tree.
        layers: dotted names of nn.Linear modules, one or several; None takes the classifier (`dynamick.nn.find_classifier`).

    Raises:
        InputError: a name is not there, or names another kind of layer, or one whose weight is not a parameter (a pruned one).

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> [len(group["params"]) for group in dk.optim.sampled_groups(model)]  # the last layer's weight, and all else
    [1, 3]
    """
    names = [find_classifier(model)] if layers is None else [layers] if isinstance(layers, str) else list(layers)
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if type(modules.get(name)) is not nn.Linear:
            linear = [repr(each) for each, module in modules.items() if type(module) is nn.Linear]
            found = f"is a {type(modules[name]).__name__}" if name in modules else "is not in the model"
            raise InputError(f"layers: {name!r} {found}; its nn.Linear layers are {', '.join(linear) or 'none'}")
        if not isinstance(modules[name].weight, nn.Parameter):
            raise InputError(f"layers: the weight of {name!r} is computed anew in every pass, and cannot be sampled")
    chosen = {id(weight): weight for weight in (modules[name].weight for name in names)}
    plain = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": list(chosen.values())}, *([{"params": plain, "s": None}] if plain else [])]


def find_owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """The layers that hold a parameter, by its id, with the name it has there."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for prefix, layer in model.named_modules():
        for name, p in layer.named_parameters(recurse=False):
            owners.setdefault(id(p), []).append((layer, f"{prefix}.{name}".lstrip(".")))
    return owners
