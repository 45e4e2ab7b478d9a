"""The unit layer: units learnt between a network's maps and its head (docs/definitions.md, "Unit layer")."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.nn.layers import DynamicLinear

NAME = "units"
"""The layer is the network's attribute of this name, so its weights are `units.conv.weight`, `units.norm.weight`, ... A network
that runs all its parts in turn (nn.Sequential) would run this one too: there it is an attribute of a part, `2.units`."""
MOST = 1 << 16
"""More units than this must be a typing error."""
CLOSE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""The head's input may differ from a map's mean by this part of its largest value. Other types round more."""


class UnitLayer(nn.Module):
    """A 1x1 convolution without bias, batch normalisation and ReLU: each output channel is a unit.

    Args:
        in_channels: channels of the maps that come in; or features of the vectors.
        units: channels that go out.
        device, dtype: as in nn.Conv2d.

    Raises:
        InputError: a number of units below 1, or beyond all use.

    >>> layer = dk.UnitLayer(512, 64)  # 64 units on maps of 512 channels
    >>> layer(torch.rand(2, 512, 7, 7)).shape
    torch.Size([2, 64, 7, 7])
    """

    def __init__(self, in_channels: int, units: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        if not 1 <= units <= MOST:
            raise InputError(f"units: {units} must be an integer from 1 to {MOST}; 256 is usual")
        self.conv = nn.Conv2d(in_channels, units, 1, bias=False, device=device, dtype=dtype)
        self.norm = nn.BatchNorm2d(units, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, units, H, W); vectors (B, C) to (B, units)."""
        if x.ndim == 2:
            return self.forward(x[:, :, None, None]).flatten(1)
        return self.norm(self.conv(x)).relu()

    def keep(self, kept: Tensor) -> None:
        """Leave only some units, in place.

        Args:
            kept: indices of the units that stay, int64, in ascending order.
        """
        norm = self.norm
        with torch.no_grad():
            for module, name in ((self.conv, "weight"), (norm, "weight"), (norm, "bias")):
                setattr(module, name, nn.Parameter(getattr(module, name)[kept].clone()))
            for name in ("running_mean", "running_var"):
                setattr(norm, name, getattr(norm, name)[kept].clone())
        self.conv.out_channels = norm.num_features = len(kept)


class _Entering:
    """A hook that puts the unit layer before a module. An object, not a function: a copied network copies it with its layer."""

    def __init__(self, units: UnitLayer) -> None:
        self.units = units

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.units(inputs[0]), *inputs[1:]


class _Leaving:
    """A hook that puts the unit layer behind a module."""

    def __init__(self, units: UnitLayer) -> None:
        self.units = units

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return self.units(output)


@dataclass(frozen=True)
class Place:
    """Where a unit layer goes.

    Attributes:
        module: dotted name of the module before or behind which it goes.
        side: `input` or `output`.
        channels: of what passes there.
        cells: locations of the map there, H * W; 0 where a vector passes (no split over the image then).
        why: why it is no map, in words; None if it is.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    >>> dk.nn.find_place(net, "3", torch.rand(2, 3, 8, 8))
    Place(module='1', side='input', channels=8, cells=36, why=None)
    """

    module: str
    side: str
    channels: int
    cells: int
    why: str | None = None


NO_MAPS = "the head's input is no mean of maps that a module gives, so its units are learnt on that input and have no heatmaps"


def find_place(model: nn.Module, head: str, example: Tensor) -> Place:
    """Where units can be learnt: at the maps whose mean enters the head, else at the head's input.

    Args:
        model: run once, in evaluation mode, without gradients.
        head: the classifier's dotted name, an nn.Linear that sees a vector an image, or a 1x1 nn.Conv2d on 1x1 maps.
        example: prepared images, (B, C, H, W).

    Raises:
        InputError: the classifier was not called, or sees something else.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    >>> place = dk.nn.find_place(net, dk.nn.find_classifier(net), torch.rand(2, 3, 8, 8))
    >>> place.channels, place.cells
    (8, 36)
    """
    seen = _run(model, head, example)
    x = seen.x
    for inplace in (False, True):
        # A module that is called twice would get units twice.
        fits = [each for each in seen.calls if seen.count[each.module] == 1 and each.is_mean_of(x, inplace)]
        finest = max((each.cells for each in fits), default=0)
        if finest > 1:
            # No other module changes what the last one sees. Before a pooling nothing else is disturbed.
            chosen = [each for each in fits if each.cells == finest][-1]
            return Place(chosen.module, chosen.side, x.shape[1], finest)
    return Place(head, "input", x.shape[1], 0, NO_MAPS)


@dataclass(frozen=True)
class _Call:
    module: str
    side: str
    cells: int
    mean: Tensor
    value: Tensor

    def is_mean_of(self, x: Tensor, inplace: bool) -> bool:
        """Whether the head's input is the mean of these maps, as they passed or after a later module changed them in place."""
        mean = self.value.double().mean((2, 3)) if inplace else self.mean
        scale = float(x.abs().max())
        return bool(((mean - x.double()).abs() <= CLOSE.get(x.dtype, 1e-2) * scale).all())


@dataclass
class _Seen:
    calls: list[_Call]
    count: dict[str, int]
    x: Tensor


def _run(model: nn.Module, head: str, example: Tensor) -> _Seen:
    classifier: Any = model.get_submodule(head)
    channels, seen = classifier.weight.shape[1], _Seen([], {}, example.new_zeros(0))

    def note(name: str, side: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == channels and value.is_floating_point():
            seen.calls.append(_Call(name, side, value[0, 0].numel(), value.double().mean((2, 3)), value))

    def before(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen.count[name] = seen.count.get(name, 0) + 1
            if module is classifier:
                seen.x = inputs[0].detach()
            elif inputs:
                note(name, "input", inputs[0])

        return hook

    def behind(name: str) -> Any:
        return lambda module, inputs, output: note(name, "output", output)

    modules = [(name, module) for name, module in model.named_modules() if name]
    handles = [module.register_forward_pre_hook(before(name)) for name, module in modules]
    handles += [module.register_forward_hook(behind(name)) for name, module in modules if module is not classifier]
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    if seen.x.numel() == 0:
        raise InputError(f"model: its classifier {head!r} was not called by the forward pass; name another")
    if seen.x[0, 0].numel() != 1 or seen.x.ndim not in (2, 4):
        raise InputError(
            f"model: its classifier {head!r} sees {tuple(seen.x.shape[1:])} an image; units need one vector an image"
        )
    seen.x = seen.x.flatten(1)
    return seen


def unit_layer(model: nn.Module) -> UnitLayer | None:
    """The unit layer of a network, if it has one.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    >>> dk.nn.unit_layer(net) is None, dk.nn.unit_layer(dk.convert(net, k=2, units=16, example=torch.rand(2, 3, 8, 8))) is None
    (True, False)
    """
    return next((each for each in model.modules() if isinstance(each, UnitLayer)), None)


def unit_layer_name(model: nn.Module) -> str | None:
    """Its dotted name, such as `units`.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    >>> dk.nn.unit_layer_name(dk.convert(net, k=2, units=16, example=torch.rand(2, 3, 8, 8)))
    '1.units'
    """
    return next((name for name, each in model.named_modules() if isinstance(each, UnitLayer)), None)


def add_units(model: nn.Module, head: str, place: Place, layer: UnitLayer, classifier: nn.Module) -> None:
    """Put a unit layer in its place, and a classifier of its units in the head's, in place.

    Args:
        model: any network without a unit layer.
        head: the classifier's dotted name.
        place: from `find_place`.
        layer: its `in_channels` are the place's.
        classifier: sees as many features as the layer has units.

    Raises:
        InputError: the network has units already, or something else of that name.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    >>> place = dk.nn.find_place(net, "3", torch.rand(2, 3, 8, 8))
    >>> dk.nn.add_units(net, "3", place, dk.UnitLayer(8, 16), dk.DynamicLinear(16, 4, k=2))
    >>> net(torch.rand(2, 3, 8, 8)).shape, dk.nn.unit_layer_name(net)
    (torch.Size([2, 4]), '1.units')
    """
    _refuse_twice(model)
    old = model.get_submodule(head)
    model.set_submodule(head, classifier)
    put_units(model, place, layer.train(old.training), (head, old))


def put_units(model: nn.Module, place: Place, layer: UnitLayer, replaced: tuple[str, nn.Module | None] = ("", None)) -> None:
    """Put a unit layer in its place in a network whose head reads units already, in place.

    Args:
        model: any network without a unit layer.
        place: from `find_place`.
        layer: its `in_channels` are the place's.
        replaced: the head's dotted name, and the head that was there before, for `revert`; None if nobody keeps it.

    Raises:
        InputError: the network has units already, or something else of that name.
        AttributeError: it has no such place.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    >>> place = dk.nn.find_place(net, "3", torch.rand(2, 3, 8, 8))
    >>> dk.nn.put_units(net, place, dk.UnitLayer(8, 8))
    >>> dk.nn.unit_layer(net).conv.in_channels
    8
    """
    _refuse_twice(model)
    module, before = model.get_submodule(place.module), place.side == "input"
    owner = owner_of(model, place)
    entering, leaving = _Entering(layer), _Leaving(layer)
    handle = module.register_forward_pre_hook(entering) if before else module.register_forward_hook(leaving)
    # What `revert` needs stays with the layer, but is not one of the network's weights.
    vars(layer).update(place=place, replaced=replaced, handle=handle)
    model.get_submodule(owner).add_module(NAME, layer)


def owner_of(model: nn.Module, place: Place) -> str:
    """The dotted name of the module that the layer is an attribute of: the network, or a part of it that runs no parts in turn.

    Raises:
        InputError: there is none on the way to the place.

    >>> net = dk.networks.new_network("resnet18", outputs=4)
    >>> dk.nn.owner_of(net, dk.nn.find_place(net, "fc", torch.rand(2, 3, 64, 64)))  # the network itself
    ''
    """
    parts = place.module.split(".")
    for count in range(len(parts) + 1):
        name = ".".join(parts[:count])
        if not isinstance(model.get_submodule(name), nn.Sequential | nn.ModuleList | nn.ModuleDict):
            return name
    raise InputError(f"model: {place.module!r} runs its parts in turn; put its pooling into a module of its own")


def _refuse_twice(model: nn.Module) -> None:
    if unit_layer(model) is not None or hasattr(model, NAME):
        raise InputError(f"model: has {NAME!r} already; revert it first")


def take_out_units(model: nn.Module) -> None:
    """Take the unit layer out, and put the head back that was there before, in place.

    Raises:
        InputError: nobody keeps the head that was there before: the network was read from a file.
    """
    name = unit_layer_name(model)
    assert name is not None
    layer: Any = model.get_submodule(name)
    owner = model.get_submodule(name.rpartition(".")[0])
    head, old = layer.replaced
    if old is None:
        raise InputError("revert: the head before the units is not in the network's file; open the network that it was made of")
    like = model.get_submodule(head)
    model.set_submodule(head, old.to(next(like.parameters()).device).train(like.training))
    delattr(owner, NAME)
    layer.handle.remove()


def with_units(model: nn.Module, head: str, k: int, units: int, rule: str, example: Tensor | None) -> nn.Module:
    """Give a network a unit layer and a Dynamic-K head on its units, both new; what `dynamick.convert` does with `units`."""
    old: Any = model.get_submodule(head)
    place = find_place(model, head, _example(model, old) if example is None else example)
    like: dict[str, Any] = {"device": old.weight.device, "dtype": old.weight.dtype}
    layer = UnitLayer(place.channels, units, **like)
    classifier = DynamicLinear(units, old.weight.shape[0], k, rule=rule, **like)
    if isinstance(old, nn.Conv2d):
        raise InputError(f"layers: {head!r} is a 1x1 convolution; units need a linear classifier, after the pooling")
    add_units(model, head, place, layer, classifier)
    return model


def _example(model: nn.Module, head: Any) -> Tensor:
    """An image of noise, of the network's own size if it says one."""
    own, known = getattr(model, "preprocessing", None), getattr(model, "default_cfg", None)
    side = getattr(own, "size", None) or (known or {}).get("input_size", (3, 224, 224))[-1]
    first = next((each for each in model.modules() if isinstance(each, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, channels, side, side, generator=generator).to(head.weight.device, head.weight.dtype)
