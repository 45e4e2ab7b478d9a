"""What happens to an image before a model sees it: explicit, and an attribute of the model (`model.preprocessing`)."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamick.errors import InputError

GREY = (0.299, 0.587, 0.114)
"""How much R, G and B are in grey (ITU-R BT.601), as in image programs."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, scale and normalise RGB images, for networks of three channels or of one.

    Args:
        size: side in pixels that images are resized to, square, bilinear with antialiasing; None keeps their size.
        mean: what is subtracted, three numbers for R, G, B in 0..1; or one number, for a network of one channel, which gets
            the images in grey.
        std: what the difference is divided by, as many numbers in 0..1.
        bgr: True where the network was trained with the channels in the order B, G, R.

    Raises:
        InputError: a size below 1, a mean or std without one or three numbers or of colours in 0..255, or a std that is not
            positive.

    >>> prepare = dk.Preprocessing(size=64)  # ImageNet's mean and deviation
    >>> prepare(torch.zeros(1, 3, 100, 80, dtype=torch.uint8)).shape
    torch.Size([1, 3, 64, 64])
    """

    size: int | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    bgr: bool = False

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) not in (1, 3):
                raise InputError(f"{name}: {len(values)} numbers given; give three, for R, G and B in 0..1, or one for grey")
            object.__setattr__(self, name, values)
        if len(self.mean) != len(self.std):
            raise InputError(f"mean: {len(self.mean)} numbers given, and {len(self.std)} for std; give as many of each")
        if min(self.std) <= 0:
            raise InputError(f"std: {self.std} must be positive")
        for name in ("mean", "std"):
            if not all(-1 <= value <= 1 for value in getattr(self, name)):
                raise InputError(f"{name}: {getattr(self, name)} must be of colours in 0..1; divide what is of 0..255 by 255")
        if self.size is not None and self.size < 1:
            raise InputError(f"size: {self.size} is no image side; give a number of pixels from 1 up")

    def __call__(self, images: Tensor) -> Tensor:
        """Prepare images of shape (B, 3, H, W), uint8 in 0..255 or floating point in 0..1, as float32 network input.

        For a network of one channel they may be of one channel already.

        Raises:
            InputError: they are of another type.
        """
        check_type(images)
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        if self.channels == 1 and scaled.shape[1] == 3:
            scaled = (scaled * torch.tensor(GREY, dtype=scaled.dtype, device=scaled.device).view(1, 3, 1, 1)).sum(
                1, keepdim=True
            )
        if self.size is not None and scaled.shape[-2:] != (self.size, self.size):
            scaled = F.interpolate(scaled, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        # The type is said, as a user may have chosen another default.
        mean = torch.tensor(self.mean, dtype=scaled.dtype, device=scaled.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=scaled.dtype, device=scaled.device).view(1, -1, 1, 1)
        normalised = (scaled - mean) / std
        return normalised.flip(1) if self.bgr else normalised

    @property
    def channels(self) -> int:
        """How many channels the network's images have: three, or one."""
        return len(self.mean)

    def check_channels(self, images: Tensor) -> None:
        """Raise InputError unless images (B, C, H, W) have three channels; for a network of one channel, three or one."""
        if images.shape[1] not in (3, self.channels):
            raise InputError(f"images: {images.shape[1]} channels; give three, for R, G and B: a tensor of shape (B, 3, H, W)")

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
    """Raise InputError, whose line begins with `what`, unless images are uint8 or in 0..1. `also` is added to the advice."""
    if images.dtype == torch.uint8 or not images.numel():
        return
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise InputError(f"{what}: values from {low:.3g} to {high:.3g}; give uint8, or 0..1{also}")
