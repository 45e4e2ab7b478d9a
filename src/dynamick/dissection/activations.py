"""The outputs of a layer of any model, by a hook that is always removed afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dynamick.dissection.layout import LAST, are_tokens, features_of, units_axis, units_second
from dynamick.errors import InputError
from dynamick.networks.running import check_hooks, unwrapped
from dynamick.ops import torch_internals


def find_layer(model: nn.Module, layer: str) -> nn.Module:
    """The module of that dotted name.

    Raises:
        InputError: there is none; the message says which exist.
    """
    # A module that has two names is found by either, and by the name that it has in what wraps the network.
    inside = {name: module for name, module in unwrapped(model).named_modules(remove_duplicate=False) if name}
    modules = {**dict(model.named_modules(remove_duplicate=False)), **inside}
    if not layer or layer not in modules:
        names = list(inside)
        level = [name for name in names if "." not in name] or names
        within = [name for name in names if layer and name.startswith(layer.rpartition(".")[0] + ".")]
        known = ", ".join(dict.fromkeys([*level, *within][:40]))
        raise InputError(f"layer: {layer!r} is not in the model; it has {known}{', ...' if len(names) > 40 else ''}")
    return modules[layer]


class Capture:
    """The latest output of a layer, as float32 maps."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self._output: Tensor | None = None
        self._image: tuple[int, int] | None = None
        self._last: nn.Module | None = None
        self._axis: int | None = None

    def see_images(self, _module: nn.Module, inputs: tuple[object, ...]) -> None:
        """Note the size of the network's input."""
        images = inputs[0] if inputs else None
        self._image = (images.shape[2], images.shape[3]) if isinstance(images, Tensor) and images.ndim == 4 else None

    def see_weights(self, module: nn.Module, _inputs: object, _output: object) -> None:
        """Note a layer with weights that was called."""
        self._last = module

    def hook(self, _module: nn.Module, _inputs: object, output: object) -> None:
        """Keep a copy: a later in-place module, such as a ReLU, would change the layer's output."""
        if isinstance(output, Tensor) and output.ndim == 2:
            output = output[:, :, None, None]
        elif isinstance(output, Tensor) and output.numel():
            output = self._units_second(output)
        if not isinstance(output, Tensor) or output.ndim != 4 or not output.is_floating_point() or not output.numel():
            form = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise InputError(
                f"layer: {self.layer!r} puts out {form}; choose one that puts out a map (B, units, h, w) or vector (B, units)"
            )
        self._output = output.detach().to(torch.float32, memory_format=torch.contiguous_format, copy=True)

    def _units_second(self, output: Tensor) -> Tensor:
        shape = tuple(output.shape)
        if output.ndim == 3 and are_tokens(shape, self._image, self._last):
            return units_second(output, LAST)
        if output.ndim != 4:
            return output
        if self._axis is None:
            self._axis = units_axis(shape, self._image, self._last, self.layer)
        return units_second(output, self._axis)

    def take(self) -> Tensor:
        """The maps of the latest forward pass, float32, shape (B, U, h, w); a vector's are (B, U, 1, 1).

        Raises:
            InputError: the forward pass did not use the layer.
        """
        if self._output is None:
            raise InputError(f"layer: {self.layer!r} is never used in the model's forward pass; choose one that is")
        output, self._output = self._output, None
        return output


@contextmanager
def capture(model: nn.Module, layer: str) -> Iterator[Capture]:
    """Inside the context every forward pass of the model leaves the layer's output in the `Capture`.

    There the model is in evaluation mode. Afterwards each module has its own mode again, and the hook is removed, also if
    the body raises. A layer that is called several times in a pass gives its last output.

    Raises:
        InputError: the layer does not exist, its output is neither a map nor a vector, or the model is TorchScript.

    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> with dk.dissection.capture(model, "layer3") as seen:
    ...     _ = model(torch.rand(2, 3, 32, 32))
    >>> seen.take().shape
    torch.Size([2, 32, 4, 4])
    """
    check_hooks(model)
    module = find_layer(model, layer)
    modes = [(each, each.training) for each in model.modules()]
    taken = Capture(layer)
    # The layer's own hook comes last, so that what it puts out is already known to be its own.
    handles = [unwrapped(model).register_forward_pre_hook(taken.see_images)]
    handles += [each.register_forward_hook(taken.see_weights) for each in model.modules() if features_of(each) is not None]
    handles.append(module.register_forward_hook(taken.hook))
    try:
        model.eval()
        with torch_internals.uncompiled():
            yield taken
    finally:
        for handle in handles:
            handle.remove()
        for each, training in modes:
            each.training = training
