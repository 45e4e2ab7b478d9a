"""Which parameters Interpretable SGD samples: parameter groups, and the layers that hold a parameter."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from dynamick.errors import InputError
from dynamick.nn import find_classifier


def sampled_groups(model: nn.Module, layers: str | Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Parameter groups for `InterpretableSGD`: the weights to sample, and all other parameters with s=None.

    Args:
        model: any module tree.
        layers: dotted names of nn.Linear modules, one or several; None takes the classifier (`dynamick.nn.find_classifier`).

    Raises:
        InputError: a name is not there, or names another kind of layer, or one whose weight is not a parameter (a pruned one).
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
