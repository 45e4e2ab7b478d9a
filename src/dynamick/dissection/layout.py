"""Which axis of a layer's output counts its units: the second in (B, units, h, w), the last in (B, h, w, units).

Tokens, (B, h * w, units), are maps whose rows follow each other.
"""

import math

from torch import Tensor, nn

from dynamick.errors import InputError

FIRST, LAST = 1, 3
COUNTS = ("out_channels", "out_features", "num_features", "num_channels", "normalized_shape")
"""By these names PyTorch's layers say how many features they put out."""
LAST_FEATURES = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)
"""These put their features into the last axis. All the others of PyTorch's put them into the second."""
STRETCHED = 1.5
"""A map may be so much wider or higher than its image, as a layer cuts its edges."""


def features_of(module: nn.Module) -> int | None:
    """How many features a layer with weights puts out, as it says itself; None where it does not."""
    if next(module.parameters(recurse=False), None) is None:
        return None
    count = next((getattr(module, name) for name in COUNTS if hasattr(module, name)), None)
    count = count[0] if isinstance(count, tuple) and len(count) == 1 else count
    return count if isinstance(count, int) else None


def units_axis(shape: tuple[int, ...], image: tuple[int, int] | None, last: nn.Module | None, layer: str) -> int:
    """The axis of the units of an output with four axes.

    Args:
        shape: the output's.
        image: height and width of what the network was given; None where that was no batch of images.
        last: the last layer with weights that was called before the output was there.
        layer: the output's, for messages.

    Raises:
        InputError: neither axis can be told from the other.
    """
    if last is None:
        return FIRST
    fits = [axis for axis in (FIRST, LAST) if shape[axis] == features_of(last)]
    if len(fits) == 1:
        return fits[0]
    if not isinstance(last, LAST_FEATURES):
        return FIRST
    stretched = {FIRST: _stretched(shape[2:], image), LAST: _stretched(shape[1:3], image)}
    best = min(stretched, key=lambda axis: stretched[axis])
    if stretched[best] > STRETCHED or (fits and stretched[FIRST] == stretched[LAST]):
        raise InputError(
            f"layer: {layer!r} puts out a tensor of shape {shape}, and it cannot be told which axis counts the units; choose a "
            "layer that puts out a map (B, units, h, w)"
        )
    return best


def _stretched(size: tuple[int, ...], image: tuple[int, int] | None) -> float:
    """By which factor a map's sides are in another ratio than its image's, from 1 up."""
    if image is None:
        return 1.0
    ratio = size[0] * image[1] / (size[1] * image[0])
    return max(ratio, 1 / ratio)


def are_tokens(shape: tuple[int, ...], image: tuple[int, int] | None, last: nn.Module | None) -> bool:
    """Whether an output with three axes is a square of tokens, of a square image: (B, side * side, units).

    Args:
        shape, image, last: as in `units_axis`.
    """
    square = math.isqrt(shape[1]) ** 2 == shape[1] and image is not None and image[0] == image[1]
    return square and isinstance(last, LAST_FEATURES) and features_of(last) == shape[2]


def units_second(maps: Tensor, axis: int) -> Tensor:
    """The same maps, or tokens, as (B, units, h, w)."""
    if maps.ndim == 3:
        side = math.isqrt(maps.shape[1])
        return maps.transpose(1, 2).unflatten(2, (side, side))
    return maps if axis == FIRST else maps.permute(0, 3, 1, 2)
