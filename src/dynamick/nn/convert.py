"""Put Dynamic-K layers into any module tree, and take them out again. Parameters are shared, never copied."""

import difflib
from collections.abc import Sequence
from typing import Any

from torch import nn

from dynamick.nn.layers import DynamicConv2d, DynamicLinear

DENSE = (nn.Linear, nn.Conv2d)
DYNAMIC = (DynamicLinear, DynamicConv2d)


def find_classifier(model: nn.Module) -> str:
    """The dotted name of the layer that yields the classes: the last linear layer or 1x1 convolution of the tree.

    Raises:
        ValueError: there is no such layer.
    """
    names = [name for name, module in model.named_modules() if _may_classify(module)]
    if not names:
        raise ValueError(f"model: {type(model).__name__} has no linear layer and no 1x1 convolution; name its layers")
    return names[-1]


def convert(model: nn.Module, k: int = 5, layers: str | Sequence[str] | None = None, rule: str = "at_most") -> nn.Module:
    """Replace layers by their Dynamic-K forms, in place.

    Args:
        model: any module tree; a model that is itself a layer is replaced as a whole.
        k: how many inputs an output routes at most.
        layers: dotted names of nn.Linear and nn.Conv2d modules, one or several; None takes the classifier
            (`find_classifier`). A module that the tree holds under several names is replaced under all of them.
        rule: `at_most` or `exactly`.

    Returns:
        The model; a new module only where the model itself is the layer.

    Raises:
        ValueError: a name is not there or names another kind of layer, k is no integer from 1 up, the rule is unknown.
    """
    names = [find_classifier(model)] if layers is None else [layers] if isinstance(layers, str) else list(layers)
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=3) or list(modules)[1:6]
            raise ValueError(f"layers: the model has no {name!r}; near it are {', '.join(map(repr, near))}")
        if type(modules[name]) not in DENSE + DYNAMIC:
            kind = type(modules[name]).__name__
            raise ValueError(f"layers: {name!r} is a {kind}; only nn.Linear and nn.Conv2d can be converted")
    # All new layers are made before any is put in, so that a wrong k or rule leaves the model as it was.
    new = {id(modules[name]): _dynamic(modules[name], k, rule) for name in names}
    return _replace(model, new)


def revert(model: nn.Module) -> nn.Module:
    """Replace every Dynamic-K layer by the dense layer with the same parameters, in place; the inverse of `convert`."""
    return _replace(model, {id(module): _dense(module) for module in model.modules() if isinstance(module, DYNAMIC)})


def _may_classify(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _replace(model: nn.Module, new: dict[int, nn.Module]) -> nn.Module:
    if id(model) in new:
        return new[id(model)]
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in new:
                parent._modules[name] = new[id(child)]
    return model


def _dynamic(layer: nn.Module, k: int, rule: str) -> nn.Module:
    if isinstance(layer, nn.Linear):
        threshold = getattr(layer, "threshold", "activations")
        bias = layer.bias is not None
        new: nn.Module = DynamicLinear(layer.in_features, layer.out_features, k, bias, rule, "meta", threshold=threshold)
    else:
        assert isinstance(layer, nn.Conv2d)
        routing = getattr(layer, "routing", "location")
        new = DynamicConv2d(**_conv_arguments(layer), k=k, rule=rule, routing=routing)
    return _share(layer, new)


def _dense(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return _share(layer, nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, "meta"))
    assert isinstance(layer, nn.Conv2d)
    return _share(layer, nn.Conv2d(**_conv_arguments(layer)))


def _conv_arguments(layer: nn.Conv2d) -> dict[str, Any]:
    names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
    return {name: getattr(layer, name) for name in names.split()} | {"bias": layer.bias is not None, "device": "meta"}


def _share(old: nn.Module, new: nn.Module) -> nn.Module:
    new.weight, new.bias = old.weight, old.bias
    if isinstance(old, DYNAMIC) and isinstance(new, DYNAMIC):
        new.mask = old.mask
    return new.train(old.training)
