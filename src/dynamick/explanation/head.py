"""What an explanation reads in one forward pass: the logits, the head's inputs, and the maps pooled into them."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynamick import functional
from dynamick.errors import InputError
from dynamick.models.heads import routing_of
from dynamick.nn import find_classifier
from dynamick.preprocessing import Preprocessing

NONLINEAR = (
    "no feature map's mean is the head's input: there are other layers between the last map and the head, "
    "so a contribution has no exact split over the image; the units alone are shown"
)
NOT_FINITE = (
    "the head's input is not finite in the first image, so nobody can tell which maps it is the mean of; "
    "the units alone are shown"
)
ONE_CELL = (
    "the last maps have one cell, the whole image, so a contribution has no split over the image; the units alone are shown"
)


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier, dense or Dynamic-K.

    Attributes:
        name: its dotted name in the model.
        module: the layer itself (nn.Linear or a 1x1 nn.Conv2d on 1x1 maps).
        weight: shape (O, M), detached.
        bias: shape (O,), zeros where the layer has none.
        k: how many inputs a class routes at most; None for a dense head.
        rule: `at_most`, `exactly` or `dense`.
        mask: boolean, shape (O, M), False where a connection is pruned; or None.
    """

    name: str
    module: nn.Module
    weight: Tensor
    bias: Tensor
    k: int | None
    rule: str
    mask: Tensor | None

    @property
    def effective_weight(self) -> Tensor:
        """The weight without pruned connections, float64, shape (O, M)."""
        return self.weight.double() if self.mask is None else self.weight.double().masked_fill(~self.mask, 0)

    def scores(self, x_BM: Tensor) -> Tensor:
        """Logits (B, O) of head inputs (B, M), by the layer's own arithmetic."""
        if self.k is None:
            weight = self.weight if self.mask is None else self.weight.masked_fill(~self.mask, 0)
            return nn.functional.linear(x_BM, weight, self.bias)
        return functional.dynamic_linear(x_BM, self.weight, self.bias, self.k, self.rule, mask=self.mask)

    def route(self, x_BM: Tensor, classes_BC: Tensor) -> functional.Route:
        """Routed units and products of each input's own classes, both (B, C, n), by descending product; -1 pads.

        A dense head routes all its units. Products are float64.
        """
        if self.k is None:
            products = x_BM.double()[:, None, :] * self.effective_weight[classes_BC]
            # NaN ranks highest, as everywhere; a stable sort gives the lower of two equal products first.
            order = products.argsort(dim=2, descending=True, stable=True)
            return functional.Route(order, products.gather(2, order))
        width = min(self.k, x_BM.shape[1])
        indices = x_BM.new_full((*classes_BC.shape, width), -1, dtype=torch.int64)
        products = x_BM.new_zeros(indices.shape, dtype=torch.float64)
        for chosen in classes_BC.unique().tolist():
            rows, columns = (classes_BC == chosen).nonzero(as_tuple=True)
            route = functional.dynamic_route(x_BM[rows], self.weight, self.k, [chosen], self.rule, mask=self.mask)
            indices[rows, columns] = route.indices[:, 0]
            products[rows, columns] = route.products[:, 0].double()
        return functional.Route(indices, products)


def find_head(model: nn.Module) -> LinearHead:
    """The model's last linear layer or 1x1 convolution, dense or Dynamic-K.

    Raises:
        InputError: there is none.
    """
    try:
        name = find_classifier(model)
    except ValueError as error:
        raise InputError(f"{str(error).split(';')[0]}; only a network that ends in one can be explained") from None
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear | nn.Conv2d)
    weight = module.weight.detach().flatten(1)
    bias = weight.new_zeros(weight.shape[0]) if module.bias is None else module.bias.detach()
    routing = routing_of(module)
    return LinearHead(name, module, weight, bias, routing.k, routing.rule, routing.mask)


@dataclass(frozen=True)
class Maps:
    """Where the maps that are averaged into the head's input are found.

    Attributes:
        module: the dotted name of a module that sees them; None where the head's input is no mean of maps.
        side: whether they are its `input` or its `output`.
        layers: the modules whose output is what enters the head, as maps or pooled; a dissection of any of them fits.
        why: why there are no maps, in words; None where there are.
    """

    module: str | None
    side: str
    layers: frozenset[str]
    why: str | None


@dataclass(frozen=True)
class Reading:
    """One batch's forward pass: logits (B, O), head inputs (B, M), maps (B, M, H, W) or None, all detached."""

    logits: Tensor
    x: Tensor
    maps: Tensor | None


class Reader:
    """Runs a model and reads, by hooks, what its head is given. The first image finds out where to look.

    Args:
        model: any classifier that ends in a linear layer.
        preprocess: `model` takes the model's own `preprocessing` (floating point images of a model without one go in as they
            are); None says that the images are prepared already; or any callable on image batches.

    Raises:
        InputError: no linear classifier, or something follows it.
    """

    def __init__(self, model: nn.Module, preprocess: str | Callable[[Tensor], Tensor] | None = "model") -> None:
        self.model = model
        self.head = find_head(model)
        self.preprocess: Callable[[Tensor], Tensor] | None
        if preprocess == "model":
            self.preprocess = getattr(model, "preprocessing", None)
        elif isinstance(preprocess, str):
            raise InputError(f"preprocess: {preprocess!r} is unknown; give 'model', None or a Preprocessing")
        else:
            self.preprocess = preprocess
        self._maps: Maps | None = None

    def maps(self, images: Tensor) -> Maps:
        """Where this model's maps are, found out with the first of these images and kept."""
        if self._maps is None:
            self._maps = self._find_maps(self.prepare(images[:1]))
        return self._maps

    def read(self, images: Tensor) -> Reading:
        """Forward pass of a batch of images (B, 3, H, W); see `Reader` for what they may be.

        Raises:
            InputError: the images have another shape or type, or the model cannot take them.
        """
        where = self.maps(images)
        seen: dict[str, Tensor] = {}

        def see_maps(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            seen["maps"] = inputs[0] if where.side == "input" else output

        hooks = [self._hook_head(seen)]
        if where.module is not None:
            hooks.append(self.model.get_submodule(where.module).register_forward_hook(see_maps))
        logits = self._run(self.prepare(images), hooks)
        x_BM, maps = seen["x"].flatten(1), seen.get("maps")
        # Each batch is held to it, as a map may equal the input by chance in the first image.
        return Reading(logits, x_BM, maps if maps is not None and _is_mean(maps, x_BM) else None)

    def prepare(self, images: Tensor) -> Tensor:
        """Network input on the model's device.

        Raises:
            InputError: no batch of images, or values that do not fit the preprocessing.
        """
        check_images(images)
        if images.dtype == torch.uint8 and self.preprocess is None:
            raise InputError("images: uint8, and the model has no preprocessing; pass preprocess=Preprocessing(...)")
        if isinstance(self.preprocess, Preprocessing) and images.shape[1] != 3:
            raise InputError(f"images: {images.shape[1]} channels; give three, for R, G and B: a tensor of shape (B, 3, H, W)")
        if images.dtype != torch.uint8 and isinstance(self.preprocess, Preprocessing) and images.numel():
            low, high = float(images.min()), float(images.max())
            if not (low >= 0 and high <= 1):
                raise InputError(
                    f"images: values from {low:.3g} to {high:.3g}; give uint8, or 0..1, or prepared images with preprocess=None"
                )
        parameter = self.head.weight
        images = images.to(parameter.device)
        prepared = images if self.preprocess is None else self.preprocess(images)
        return prepared.to(parameter.dtype)

    def _find_maps(self, first: Tensor) -> Maps:
        seen: dict[str, Tensor] = {}
        calls: list[tuple[str, str, Tensor]] = []

        def see(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                calls.extend(
                    (name, side, value)
                    for side, value in (("input", inputs[0] if inputs else None), ("output", output))
                    if isinstance(value, Tensor)
                )

            return hook

        hooks = [self._hook_head(seen)]
        hooks += [module.register_forward_hook(see(name)) for name, module in self.model.named_modules() if name]
        logits = self._run(first, hooks)
        if "x" not in seen:
            raise InputError(f"model: its last linear layer {self.head.name!r} was not called by the forward pass")
        given = seen["x"]
        if given.ndim not in (2, 4) or (given.ndim == 4 and given.shape[2:] != (1, 1)):
            raise InputError(
                f"model: its classifier {self.head.name!r} works on maps of shape {tuple(given.shape[1:])} and is pooled "
                "later; only a linear classifier after the pooling can be explained"
            )
        x_BM = given.flatten(1)
        expected = self.head.scores(x_BM)
        if logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise InputError(f"model: its output is not that of its last linear layer {self.head.name!r}; give the logits")
        if not x_BM.isfinite().all():
            return Maps(None, "output", frozenset(), NOT_FINITE)
        same = [call for call in calls if call[0] != self.head.name and _is_mean(call[2], x_BM)]
        cells = [call[2][0, 0].numel() if call[2].ndim == 4 else 0 for call in same]
        finest = max(cells, default=0)
        # The finest maps are those before the pooling: the mean of an already pooled map is the head's input too. Of several
        # modules that see them the last is the surest, as what it sees is not changed in place any more.
        here = [call for call, count in zip(same, cells, strict=True) if count == finest]
        layers = frozenset(name for name, side, _ in here if side == "output")
        if finest <= 1:
            finer = any(
                value.ndim == 4 and value.shape[1] == x_BM.shape[1] and value[0, 0].numel() > 1 for _, _, value in calls
            )
            return Maps(None, "output", layers, ONE_CELL if finest and not finer else NONLINEAR)
        name, side, _ = here[-1]
        return Maps(name, side, layers, None)

    def _hook_head(self, seen: dict[str, Tensor]) -> Any:
        def see_head(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen["x"] = inputs[0].detach()

        return self.head.module.register_forward_pre_hook(see_head)

    def _run(self, prepared: Tensor, hooks: list[Any]) -> Tensor:
        try:
            with evaluating(self.model), torch.no_grad():
                output = self.model(prepared)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise InputError(f"images: the model does not take shape {tuple(prepared.shape)} ({first})") from error
        finally:
            for hook in hooks:
                hook.remove()
        if not isinstance(output, Tensor):
            raise InputError(f"model: its output is a {type(output).__name__}; give a model that returns logits")
        return output.flatten(1)


def heat(head: LinearHead, reading: Reading, classes_B: Tensor) -> Tensor | None:
    """Where each image's own class gets its logit from: the sum of its routed units' maps, (B, H, W); None without maps.

    Summed over the image it is the logit minus the bias (docs/definitions.md, "Dynamic-K").
    """
    if reading.maps is None:
        return None
    indices_BK = head.route(reading.x, classes_B[:, None]).indices[:, 0]
    weight_BM = head.effective_weight[classes_B].to(reading.maps.dtype)
    routed_BM = torch.zeros_like(weight_BM).scatter_add(1, indices_BK.clamp(min=0), (indices_BK >= 0).to(weight_BM.dtype))
    cells = reading.maps[0, 0].numel()
    return torch.einsum("bm,bmhw->bhw", weight_BM * routed_BM, reading.maps) / cells


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the body; every module's own mode is put back, also when the body raises."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def check_images(images: Tensor) -> None:
    """Raise InputError unless this is a batch of images, (B, C, H, W), uint8 or floating point."""
    if not isinstance(images, Tensor) or images.ndim != 4:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images: {shape} is no batch; give a tensor of shape (B, 3, H, W), uint8 or 0..1")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InputError(f"images: {images.dtype} is no image type; give uint8 or floating point")


def _is_mean(value: Tensor, x_BM: Tensor) -> bool:
    """Whether these maps (B, M, H, W), averaged over locations, or these values (B, M), are the head's inputs."""
    if value.ndim not in (2, 4) or value.shape[:2] != x_BM.shape or not value.is_floating_point():
        return False
    mean = value.detach().double().mean(dim=(2, 3)) if value.ndim == 4 else value.detach().double()
    scale = float(x_BM.abs().max()) if x_BM.numel() else 0.0
    if not math.isfinite(scale):
        return False
    tolerance = 1e-5 if x_BM.dtype in (torch.float32, torch.float64) else 1e-2
    return bool(((mean - x_BM.double()).abs() <= tolerance * scale).all())
