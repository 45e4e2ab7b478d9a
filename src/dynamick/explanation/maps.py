"""Which maps a network averages into its head's input. One image is passed through it to find out."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

NONLINEAR = (
    "no feature map's mean is the head's input: the last maps are pooled otherwise, or there are other layers between them and "
    "the head, so a contribution has no exact split over the image; the units alone are shown"
)
NOT_FINITE = (
    "the head's input is not finite in any of these images, so nobody can tell which maps it is the mean of; "
    "the units alone are shown"
)
ONE_CELL = (
    "the last maps have one cell, the whole image, so a contribution has no split over the image; the units alone are shown"
)
UNITS_LAST = "the maps have their units as the last axis, and it wants them as the second"
NO_MODULE = "no module of the model puts out the map that is averaged; pool the output of a module, such as an nn.ReLU"


@dataclass(frozen=True)
class Maps:
    """Where the maps that are averaged into the head's input are found.

    Attributes:
        module: the dotted name of a module that sees them; None if there are none, or only a function's output is one.
        side: whether they are its `input` or its `output`; `function` where no module sees them.
        layers: the modules whose output is what enters the head, as maps or pooled; a dissection of any of them fits.
        why: why there are no maps, in words; None if there are.
        usual: whether their axes are (B, units, H, W); else the units are the last axis.
    """

    module: str | None
    side: str
    layers: frozenset[str]
    why: str | None
    usual: bool = True

    @property
    def no_grad_cam(self) -> str | None:
        """Why Grad-CAM cannot look at them; None if it can."""
        if self.module is None:
            return self.why or NO_MODULE
        return None if self.usual else UNITS_LAST


@dataclass(frozen=True)
class Sight:
    """One tensor that was seen while an image passed: a module's input or output."""

    module: str
    side: str
    value: Tensor


def find_maps(head: str, x_BM: Tensor, seen: Sequence[Sight]) -> Maps:
    """Where the maps are whose mean is the head's input, by what modules saw.

    Args:
        head: the head's dotted name.
        x_BM: its input.
        seen: what the modules saw in the same forward pass, in order.
    """
    found = [(each, as_maps(each.value, x_BM)) for each in seen if each.module != head]
    same = [(each, _cells(maps)) for each, maps in found if maps is not None]
    finest = max((cells for _, cells in same), default=0)
    # The finest maps are those before the pooling: the mean of a pooled map is the head's input too. Of several modules
    # that see them, the last one is taken, because nothing changes its maps in place any more.
    here = [each for each, cells in same if cells == finest]
    layers = frozenset(each.module for each in here if each.side == "output")
    if finest <= 1:
        finer = any(_cells(form) > 1 for each in seen for form in _forms(each.value, x_BM.shape[1]))
        return Maps(None, "output", layers, ONE_CELL if finest and not finer else NONLINEAR)
    usual = [each for each in here if each.value.ndim == 4 and each.value.shape[1] == x_BM.shape[1]]
    best = (usual or here)[-1]
    return Maps(best.module, best.side, layers, None, bool(usual))


class Watching(TorchFunctionMode):
    """Inside the context, notes the outputs of PyTorch's functions that are a number of maps with more than one cell.

    For networks that pool with functions: there no module sees the maps.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = units
        self.seen: list[Tensor] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and any(_cells(form) > 1 for form in _forms(output, self.units)):
            self.seen.append(output.detach())
        return output

    def maps(self, x_BM: Tensor) -> Tensor | None:
        """The finest of the noted maps whose mean is the head's input, of several the last; None where there is none."""
        same = [maps for value in self.seen if (maps := as_maps(value, x_BM)) is not None]
        return max(reversed(same), key=_cells, default=None)


def as_maps(value: Tensor, x_BM: Tensor) -> Tensor | None:
    """A value as maps (B, M, H, W), or as (B, M), if their mean over locations is the head's input; else None."""
    return next((form for form in _forms(value, x_BM.shape[1]) if _is_mean(form, x_BM)), None)


def _forms(value: Tensor, units: int) -> Iterator[Tensor]:
    """The ways to see a value as (B, units, H, W) or (B, units): units second or last, or a square of tokens row by row."""
    if value.ndim in (2, 4) and value.shape[1] == units:
        yield value
    if value.ndim == 4 and value.shape[3] == units:
        yield value.permute(0, 3, 1, 2)
    if value.ndim == 3 and value.shape[2] == units and math.isqrt(value.shape[1]) ** 2 == value.shape[1]:
        side = math.isqrt(value.shape[1])
        yield value.transpose(1, 2).unflatten(2, (side, side))


def _is_mean(value: Tensor, x_BM: Tensor) -> bool:
    if value.shape[:2] != x_BM.shape or not value.is_floating_point():
        return False
    mean = value.detach().double().mean(dim=(2, 3)) if value.ndim == 4 else value.detach().double()
    scale = float(x_BM.abs().max()) if x_BM.numel() else 0.0
    if not math.isfinite(scale):
        return False
    tolerance = 1e-5 if x_BM.element_size() >= 4 else 1e-2
    return bool(((mean - x_BM.double()).abs() <= tolerance * scale).all())


def tells(x_BM: Tensor) -> bool:
    """Whether a head's input can tell maps apart: it is finite, and something excites a unit."""
    return bool(x_BM.isfinite().all() and (x_BM != 0).any())


def _cells(value: Tensor) -> int:
    """How many cells each map has; 0 for what is no batch of maps."""
    return value.shape[2] * value.shape[3] if value.ndim == 4 else 0


def watch(name: str, seen: list[Sight]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    """A forward hook that notes what a module is given first, and what it puts out."""

    def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        for side, value in (("input", inputs[0] if inputs else None), ("output", output)):
            if isinstance(value, Tensor):
                seen.append(Sight(name, side, value))

    return hook
