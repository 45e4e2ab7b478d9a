"""Maps and images as pixels: enlarged, and as PNG bytes."""

import io

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def enlarge(map_HW: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (h, w) or maps (n, h, w), upsampled bilinearly (align_corners=False) to size (H, W) in pixels."""
    maps = map_HW.reshape(-1, 1, *map_HW.shape[-2:]).float()
    large = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return large.reshape(*map_HW.shape[:-2], *size)


def png(pixels: np.ndarray | Tensor) -> bytes:
    """PNG bytes of a uint8 array (H, W, 3), or of a uint8 tensor (3, H, W)."""
    array = pixels.permute(1, 2, 0).contiguous().numpy() if isinstance(pixels, Tensor) else pixels
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
