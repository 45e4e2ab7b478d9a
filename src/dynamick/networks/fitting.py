"""Putting a state dict into a model: by the names that the file gives its weights, or what wrappers made of them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from dynamick.networks.weights import is_usual

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What torch.compile, sharding and checkpointing put into names, wherever they wrap."""
OLD_NAMES = (
    # DenseNet's, before 2018.
    (
        re.compile(
            r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var|num_batches_tracked))$"
        ),
        r"\1\2",
    ),
    (re.compile(r"^(.*)\.gamma$"), r"\1.weight"),
    (re.compile(r"^(.*)\.beta$"), r"\1.bias"),
)
AUXILIARY = "aux"
"""So the heads' names begin that serve training alone; files often lack them."""
SHOWN = 3
"""So many of a file's names are shown beside those wanted."""


def chosen(model: nn.Module, found: Mapping[str, Mapping[str, Tensor]]) -> tuple[dict[str, Tensor], str | None]:
    """Of the state dicts in a file the one that fits a model best, under the model's names.

    Args:
        model: the model.
        found: as `read_weights` gives them.

    Returns:
        The state dict, and why none can be chosen, in words; None if one can.
    """
    named = {key: fitted(model, tensors) for key, tensors in found.items()}
    own = model.state_dict().keys()
    hits = {key: len(own & tensors.keys()) for key, (tensors, _) in named.items()}
    best = max(hits.values())
    first, *others = [key for key in named if hits[key] == best]
    tensors, why = named[first]
    if why is None and best and others and not is_usual(first):
        why = f"it holds several, under {first!r} and {others[0]!r}; save one alone"
    return tensors, why


def fitted(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """A state dict under a model's names: without what stands before all of them, without wrappers, and with today's names.

    Returns:
        The state dict, and why its names cannot be told, in words: two sets of them fit as well. None if they can.
    """
    own = list(model.state_dict())
    tensors = dict(tensors)
    if not any(part in WRAPPERS for name in own for part in name.split(".")):
        tensors = {_without_wrappers(name): tensor for name, tensor in tensors.items()}
    tensors = _renamed(own, tensors)
    prefixes, inner = _best_prefixes(own, tensors), ""
    if not prefixes:
        # Perhaps the file is of the network inside a wrapper.
        inner = _common_prefix(own)
        prefixes = _best_prefixes([name.removeprefix(inner) for name in own], tensors)
    if len(prefixes) > 1:
        return tensors, f"its names fit twice, under {prefixes[0]!r} and {prefixes[1]!r}; save one network alone"
    return ({f"{inner}{name}": tensor for name, tensor in _under(prefixes[0], tensors).items()} if prefixes else tensors), None


def put_weights(model: nn.Module, tensors: Mapping[str, Tensor], assign: bool = False) -> str | None:
    """Load a state dict into a model. Auxiliary heads that the file lacks go; those that the model lacks are left out.

    Args:
        model: the model.
        tensors: the state dict, under the model's names.
        assign: the model takes these very tensors, instead of their values.

    Returns:
        Why it does not fit: the first weight that does not, in words; None if it does.
    """
    own = model.state_dict()
    tensors = {name: tensor for name, tensor in tensors.items() if name in own or not _is_auxiliary(name)}
    lacking = {name.partition(".")[0] for name in own if name not in tensors}
    if lacking and all(_is_auxiliary(name) for name in lacking):
        for name in lacking:
            setattr(model, name, None)
    try:
        model.load_state_dict(tensors, assign=assign)
    except Exception as error:
        return _misfit(model.state_dict(), tensors) or " ".join(str(error).split())[:200]
    return None


def take_precision(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give each of a model's weights the precision of the tensor that it is to hold; ties between weights stay."""
    own = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, weight in own:
        given = tensors.get(name)
        if given is not None and given.is_floating_point() and weight.is_floating_point() and given.dtype != weight.dtype:
            weight.data = weight.data.to(given.dtype)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _renamed(own: Iterable[str], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict whose old names have become today's, where the model knows no such name."""
    ends = tuple(own)
    new = {}
    for name, tensor in tensors.items():
        for old, today in OLD_NAMES:
            if old.match(name) and not any(name.endswith(end) for end in ends):
                name = old.sub(today, name)
        new[name] = tensor
    return new


def _common_prefix(names: list[str]) -> str:
    """What all names begin with, whole parts alone: `net.` of `net.conv.weight` and `net.fc.bias`."""
    parts = [name.split(".")[:-1] for name in names]
    common: list[str] = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return "".join(f"{part}." for part in common)


def _best_prefixes(own: list[str], tensors: Mapping[str, Any]) -> list[str]:
    """What stands before most of a model's names in a state dict; several where they fit alike, and none is nothing."""
    found: dict[str, int] = {}
    wanted = set(own)
    for name in tensors:
        parts = name.split(".")
        for place in range(len(parts)):
            if ".".join(parts[place:]) in wanted:
                prefix = "".join(f"{part}." for part in parts[:place])
                found[prefix] = found.get(prefix, 0) + 1
    most = max(found.values(), default=0)
    # With fewer it is another network, where some names are the same by chance.
    best = [prefix for prefix, count in found.items() if count == most and 2 * count > len(wanted)]
    return [""] if "" in best else best


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _is_auxiliary(name: str) -> bool:
    return any(part.lower().startswith(AUXILIARY) for part in name.split("."))


def _misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    lacking, odd = [name for name in own if name not in given], [name for name in given if name not in own]
    if lacking or odd:
        names, said = (lacking, "they lack") if lacking else (odd, "the model has no")
        told = f"{said} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        strangers = 2 * len(lacking) > len(own)
        return f"{told}; {', '.join(odd[:SHOWN])} there, {', '.join(lacking[:SHOWN])} wanted" if strangers and odd else told
    for name, tensor in own.items():
        found, wanted = (tuple(getattr(each, "shape", ())) for each in (given[name], tensor))
        if found != wanted:
            return f"{name} has the shape {found}, not {wanted}"
    return None
