"""What happens to an image before a model sees it: explicit, and an attribute of the model (`model.preprocessing`)."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamick.errors import InputError


@dataclass(frozen=True)
class Preprocessing:
    """Resize, scale and normalise RGB images.

    Args:
        size: side in pixels that images are resized to, square, bilinear with antialiasing; None keeps their size.
        mean: what is subtracted, three numbers for R, G, B in 0..1.
        std: what the difference is divided by, three numbers for R, G, B in 0..1.
        bgr: True where the network was trained with the channels in the order B, G, R.

    Raises:
        InputError: a size below 1, a mean or std without three numbers, or a std that is not positive.
    """

    size: int | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    bgr: bool = False

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3:
                raise InputError(f"{name}: {len(values)} numbers given; give three, for R, G and B in 0..1")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise InputError(f"std: {self.std} must be positive")
        if self.size is not None and self.size < 1:
            raise InputError(f"size: {self.size} is no image side; give a number of pixels from 1 up")

    def __call__(self, images: Tensor) -> Tensor:
        """Prepare images of shape (B, 3, H, W), uint8 in 0..255 or floating point in 0..1, as float32 network input.

        Raises:
            InputError: they are of another type.
        """
        check_type(images)
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        if self.size is not None and scaled.shape[-2:] != (self.size, self.size):
            scaled = F.interpolate(scaled, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        shape = (1, 3, 1, 1)
        mean = torch.tensor(self.mean, device=scaled.device).view(shape)
        std = torch.tensor(self.std, device=scaled.device).view(shape)
        normalised = (scaled - mean) / std
        return normalised.flip(1) if self.bgr else normalised

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`."""
        return cls(**settings)


def check_type(images: Tensor, what: str = "images") -> None:
    """Raise InputError, whose line begins with `what`, unless images are uint8 or floating point."""
    if not isinstance(images, Tensor) or (images.dtype != torch.uint8 and not images.is_floating_point()):
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"{what}: {kind} is no image type; give uint8 or floating point")


def check_range(images: Tensor, what: str = "images", also: str = "") -> None:
    """Raise InputError, whose line begins with `what`, unless images are uint8 or lie in 0..1; `also` may be given instead."""
    if images.dtype == torch.uint8 or not images.numel():
        return
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise InputError(f"{what}: values from {low:.3g} to {high:.3g}; give uint8, or 0..1{also}")
