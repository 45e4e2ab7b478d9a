"""Put Dynamic-K layers into any module tree, and take them out again. Parameters are shared, never copied."""

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.nn.classifier import find_classifier, uncalled
from dynamick.nn.layers import DynamicConv2d, DynamicLinear
from dynamick.nn.units import take_out_units, unit_layer, with_units
from dynamick.ops import torch_internals

DENSE = (nn.Linear, nn.Conv2d)
DYNAMIC = (DynamicLinear, DynamicConv2d)


def convert(
    model: nn.Module,
    k: int = 5,
    layers: str | Sequence[str] | None = None,
    rule: str = "at_most",
    units: int | None = None,
    example: Tensor | None = None,
) -> nn.Module:
    """Replace layers by their Dynamic-K forms, in place. Hooks move to the new layers.

    With `units` the network also gets a layer of so many new units (`UnitLayer`) on the maps whose mean enters the classifier,
    and a new Dynamic-K head on them; both are to be trained. A classifier that reads no mean of maps gets units on its input.

    The head becomes sparse only with enough weight decay on its weight (`dynamick.parameter_groups`). Without, it stays dense.

    PyTorch's fast path of nn.TransformerEncoder would compute densely, so it is off until `revert`. Pass the whole encoder.

    Args:
        model: any module tree; a model that is itself a layer is replaced as a whole.
        k: how many inputs an output routes at most.
        layers: dotted names of nn.Linear and nn.Conv2d modules, one or several; None takes the classifier
            (`find_classifier`). A module that the tree holds under several names is replaced under all of them.
        rule: `at_most` or `exactly`.
        units: how many units the new layer has; None for no such layer. 256 is usual.
        example: prepared images, (B, C, H, W), that the network takes; by default noise of the size that the network names, or
            of 224 pixels. It is run once to find the maps.

    Returns:
        The model; a new module only where the model itself is the layer.

    Raises:
        ValueError: a name is not there, or names another kind of layer, one that an attention reads but never calls, or one
            whose weight or bias is computed (pruning, weight norm, parametrizations); k is not an integer of 1 or more; the
            rule is unknown; the network has units already, or does not take the example.

    >>> model = dk.convert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)), k=3)
    >>> type(model[1]).__name__, model[1].k
    ('DynamicLinear', 3)
    """
    if units is not None:
        if layers is not None and not isinstance(layers, str):
            raise InputError(f"layers: {list(layers)} with units; name the classifier alone")
        return with_units(model, find_classifier(model) if layers is None else layers, k, units, rule, example)
    if layers is None:
        layers = "" if type(model) in DENSE + DYNAMIC else find_classifier(model)
    names = [layers] if isinstance(layers, str) else list(layers)
    modules = dict(model.named_modules(remove_duplicate=False))
    never = uncalled(model)
    for name in names:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=3) or list(modules)[1:6]
            raise ValueError(f"layers: the model has no {name!r}; near it are {', '.join(map(repr, near))}")
        if id(modules[name]) in never:
            reader = never[id(modules[name])]
            raise InputError(f"layers: {name!r} is never called, {reader} reads its weight; name another layer")
        check_parameters(name, modules[name])
        _check_kind(name, modules[name])
    # All new layers are made before any is put in. So a wrong k or rule leaves the model as it was.
    new = {id(modules[name]): _dynamic(modules[name], k, rule) for name in names}
    return _replace(model, new)


def revert(model: nn.Module) -> nn.Module:
    """Replace every Dynamic-K layer by the dense layer with the same parameters and hooks, in place; the inverse of `convert`.

    A dense layer has no mask, so the weights that a mask prunes are set to zero, in the parameter itself. A unit layer is taken
    out, and the head that was there before it comes back as it was.

    Raises:
        ValueError: the weight or bias of a layer is computed (pruning, weight norm, parametrizations), or nobody keeps the head
            from before the units.

    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    >>> weight = model[1].weight
    >>> dk.revert(dk.convert(model, k=3))[1].weight is weight  # the parameters are shared all the way
    True
    """
    if unit_layer(model) is not None:
        take_out_units(model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, DYNAMIC)}
    for name, layer in layers.items():
        check_parameters(name, layer)
    return _replace(model, {id(layer): _dense(layer) for layer in layers.values()})


def check_parameters(name: str, layer: nn.Module) -> None:
    """Raise InputError if the weight or bias of a dense layer is computed, and so is no parameter of its own."""
    if isinstance(layer, DENSE) and not {"weight", "bias"} <= torch_internals.parameters(layer).keys():
        undo = "prune.remove, remove_weight_norm, remove_spectral_norm or parametrize.remove_parametrizations"
        raise InputError(f"model: the weight or bias of {name!r} is computed; call torch.nn.utils' {undo} first")


def _check_kind(name: str, layer: nn.Module) -> None:
    """Raise ValueError unless a layer computes what nn.Linear or nn.Conv2d computes, whatever its class is called."""
    kind = type(layer)
    if kind in DENSE + DYNAMIC:
        return
    if not isinstance(layer, DENSE):
        raise ValueError(f"layers: {name!r} is a {kind.__name__}; only nn.Linear and nn.Conv2d can be converted")
    if torch.nn.parameter.is_lazy(layer.weight):
        raise InputError(f"layers: {name!r} has no size yet; run the model once, then convert it")
    if not _computes_as_its_base(layer):
        full = f"{kind.__module__}.{kind.__qualname__}"
        raise InputError(f"layers: {name!r} is a {full}, which computes otherwise than nn.Linear and nn.Conv2d; name another")


@torch.no_grad()
def _computes_as_its_base(layer: Any) -> bool:
    """Whether a subclass has the state of nn.Linear or nn.Conv2d, and for numbers drawn at random their outputs."""
    if not {"weight", "bias"} >= layer.state_dict().keys():
        return False
    if isinstance(layer, nn.Linear):
        if type(layer).forward is nn.Linear.forward:
            return True
        shapes: list[tuple[int, ...]] = [(2, layer.in_features)]
        plain: nn.Module = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, "meta")
    else:
        # Some pad by the size of their input.
        shapes = [(2, layer.in_channels, side, side) for side in (17, 20)]
        plain = nn.Conv2d(**_conv_arguments(layer))
    plain.weight, plain.bias = layer.weight, layer.bias
    generator = torch.Generator().manual_seed(0)
    xs = [torch.randn(shape, generator=generator).to(layer.weight.device, layer.weight.dtype) for shape in shapes]
    try:
        # By their forward passes alone, so that nobody's hooks are called.
        return all(torch.equal(layer.forward(x), plain.forward(x)) for x in xs)
    except Exception:
        # Its inputs or outputs are of another kind.
        return False


def _replace(model: nn.Module, new: dict[int, nn.Module]) -> nn.Module:
    if id(model) in new:
        return new[id(model)]
    for parent in list(model.modules()):
        children = torch_internals.submodules(parent)
        for name, child in list(children.items()):
            if id(child) in new:
                children[name] = new[id(child)]
    _switch_fast_paths(model)
    return model


def _switch_fast_paths(model: nn.Module) -> None:
    for module in model.modules():
        for kind, switch in torch_internals.FAST_PATHS.items():
            if not isinstance(module, kind):
                continue
            state, saved = vars(module), f"_dense_{switch}"
            dynamic = any(isinstance(each, DYNAMIC) for each in module.modules())
            if dynamic and saved not in state:
                state[saved], state[switch] = state.get(switch, 0), 0
            elif not dynamic and saved in state:
                state[switch] = state.pop(saved)


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
    _zero_pruned(layer)
    if isinstance(layer, nn.Linear):
        return _share(layer, nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, "meta"))
    assert isinstance(layer, nn.Conv2d)
    return _share(layer, nn.Conv2d(**_conv_arguments(layer)))


def _zero_pruned(layer: Any) -> None:
    if layer.mask is not None:
        pruned = ~layer.mask.reshape(layer.mask.shape + (1,) * (layer.weight.ndim - 2))
        with torch.no_grad():
            layer.weight.masked_fill_(pruned, 0)


def _conv_arguments(layer: nn.Conv2d) -> dict[str, Any]:
    names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
    return {name: getattr(layer, name) for name in names.split()} | {"bias": layer.bias is not None, "device": "meta"}


def _share(old: nn.Module, new: nn.Module) -> nn.Module:
    new.weight, new.bias = old.weight, old.bias
    if isinstance(old, DYNAMIC) and isinstance(new, DYNAMIC):
        new.mask = old.mask
    for name, inside in old.named_children():
        # Such as learnt units on the layer's input.
        new.add_module(name, inside)
    torch_internals.move_hooks(old, new)
    return new.train(old.training)
