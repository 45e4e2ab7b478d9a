"""Which layer of a network is its classifier, as far as the tree of modules tells."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from dynamick.nn.units import UnitLayer

# Modules that read the weights of some of their layers but never call these layers, by package and class.
READERS = {("torch", "MultiheadAttention"): ("out_proj",), ("torchvision", "ShiftedWindowAttention"): ("qkv", "proj")}
HEADS = ("fc", "classifier", "head", "heads", "last_linear")
"""Usual names of a network's head."""
AUXILIARY = "aux"
"""The names of heads that are only for training begin like this."""
NOTHING = (nn.Identity, nn.Dropout, nn.Flatten)
"""What people put in place of a head that they remove."""
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def find_classifier(model: nn.Module) -> str:
    """The dotted name of the layer that yields the classes: the last linear layer or 1x1 convolution of the tree.

    If the model has a `head_name`, as `dynamick.open_network` leaves it, that layer is taken. A model of timm's says it by its
    `get_classifier`. Some layers are never taken: layers that are never called (an nn.MultiheadAttention's out_proj, the qkv
    and proj of torchvision's Swin), the convolution of a unit layer, and heads only for training (`aux_classifier`).

    Raises:
        ValueError: there is no such layer, it was taken out (`model.fc = nn.Identity()`), or several heads stand side by side.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    >>> dk.nn.find_classifier(net)
    '3'
    """
    named = getattr(model, "head_name", None)
    if named is not None and any(name == named for name, _ in model.named_modules(remove_duplicate=False)):
        return str(named)
    candidates = _candidates(model)
    if not candidates:
        raise ValueError(f"model: {type(model).__name__} has no linear layer and no 1x1 convolution; name its layers")
    said = _said(model)
    if said is not None:
        candidates = [name for name in candidates if name == said or name.startswith(f"{said}.")]
    elif (empty := _taken_out(model, candidates)) is not None:
        raise ValueError(f"model: {type(model).__name__} has no classifier, its {empty!r} is empty; name its layers")
    if not candidates or _goes_on(model, candidates[-1]):
        raise ValueError(f"model: {type(model).__name__} has no classifier at its end; name its layers")
    if len(beside := _side_by_side(model, candidates)) > 1:
        raise ValueError(f"model: which head is meant, {', '.join(map(repr, beside))}? Name it")
    return candidates[-1]


def uncalled(model: nn.Module) -> dict[int, str]:
    """The ids of layers that are never called, and what reads their weights instead."""
    found = {}
    for module in model.modules():
        if isinstance(module, UnitLayer):
            found[id(module.conv)] = "the unit layer"
        for kind in type(module).__mro__:
            for name in READERS.get((kind.__module__.partition(".")[0], kind.__name__), ()):
                found[id(getattr(module, name))] = type(module).__name__
    return found


def _candidates(model: nn.Module) -> list[str]:
    """The layers that may be a classifier, in the tree's order. Auxiliary heads only if there is nothing else."""
    never = uncalled(model)
    names = [name for name, each in model.named_modules() if _may_classify(each) and id(each) not in never]
    return [name for name in names if not _is_auxiliary(name)] or names


def _may_classify(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _said(model: Any) -> str | None:
    """What a network of timm's names as its classifier; None for networks that do not say."""
    get = getattr(model, "get_classifier", None)
    if get is None or not hasattr(model, "reset_classifier"):
        return None
    found = get()
    # A distilled network has two.
    found = found[0] if isinstance(found, tuple) else found
    return next((name for name, each in model.named_modules() if each is found and name), None)


def _taken_out(model: nn.Module, candidates: list[str]) -> str | None:
    """The name of an empty head, if no other head holds a layer."""
    prefix, inner = "", model
    while len(bodies := [(name, each) for name, each in inner.named_children() if any(True for _ in each.parameters())]) == 1:
        # A network inside another one, such as that of a training's module.
        if any(name in HEADS for name, _ in inner.named_children()):
            break
        prefix, inner = f"{prefix}{bodies[0][0]}.", bodies[0][1]
    heads = {f"{prefix}{name}": each for name, each in inner.named_children() if name in HEADS}
    if any(name == head or name.startswith(f"{head}.") for head in heads for name in candidates):
        return None
    return next((name for name, head in heads.items() if all(isinstance(leaf, NOTHING) for leaf in _leaves(head))), None)


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    return (each for each in module.modules() if not isinstance(each, nn.Sequential))


def _goes_on(model: nn.Module, name: str) -> bool:
    """Whether a network goes on after its last candidate.

    After a convolution, any weights mean that it goes on. After a linear layer, the normalisation of a later block does.
    """
    modules = dict(model.named_modules())
    units = {id(each) for module in model.modules() if isinstance(module, UnitLayer) for each in module.modules()}
    after = list(modules)[list(modules).index(name) + 1 :]
    behind = [each for each in after if not _is_auxiliary(each) and id(modules[each]) not in units]
    weighted = [each for each in behind if any(True for _ in modules[each].parameters(recurse=False))]
    if isinstance(modules[name], nn.Conv2d) or not weighted:
        return bool(weighted)
    return isinstance(modules[weighted[0]], NORMS) and weighted[0].rpartition(".")[0] != name.rpartition(".")[0]


def _is_auxiliary(name: str) -> bool:
    return any(part.lower().startswith(AUXILIARY) for part in name.split("."))


def _side_by_side(model: nn.Module, candidates: list[str]) -> list[str]:
    """Heads on the same features with different numbers of classes, if the last candidate is one of them."""
    parent, _, _ = candidates[-1].rpartition(".")
    if isinstance(model.get_submodule(parent), nn.Sequential):
        return [candidates[-1]]
    last: Any = model.get_submodule(candidates[-1])
    beside = []
    for name in candidates:
        layer: Any = model.get_submodule(name)
        same = name.rpartition(".")[0] == parent and type(layer) is type(last) and isinstance(layer, nn.Linear)
        if name == candidates[-1] or (
            same and layer.in_features == last.in_features and layer.out_features not in (last.out_features, last.in_features)
        ):
            beside.append(name)
    return beside
