"""Pictures of explanations: heatmaps over the image, as arrays and as PNG bytes."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynamick.errors import InputError


def enlarge(map_HW: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (h, w) or maps (n, h, w), upsampled bilinearly (align_corners=False) to size (H, W) in pixels."""
    maps = map_HW.reshape(-1, 1, *map_HW.shape[-2:]).float()
    large = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return large.reshape(*map_HW.shape[:-2], *size)


def heatmap(image: Tensor, map_HW: Tensor, opacity: float = 0.6, peak: float | None = None) -> np.ndarray:
    """One contribution's map laid over its image.

    Positive values colour the image from dark violet to yellow (matplotlib's `inferno`, readable without colour vision) and
    stand out by their opacity, so that where nothing contributes the image is seen as it is. Negative values stay clear.

    Args:
        image: uint8 (3, H, W), or floating point in 0..1.
        map_HW: (h, w), of any size.
        opacity: of the largest value, 0..1.
        peak: the value that gets the full colour; None takes this map's largest. Give one for maps to be compared.

    Returns:
        uint8 array (H, W, 3).

    Raises:
        InputError: the image is not (3, H, W), or the map not (h, w).
    """
    if image.ndim != 3 or image.shape[0] != 3 or map_HW.ndim != 2:
        raise InputError(f"heatmap: image {tuple(image.shape)}, map {tuple(map_HW.shape)}; give (3, H, W) and (h, w)")
    import matplotlib

    pixels = image.float() if image.is_floating_point() else image.float() / 255
    heat = enlarge(map_HW, (image.shape[1], image.shape[2])).clamp(min=0)
    top = float(heat.max()) if peak is None else peak
    heat = (heat / top).clamp(max=1) if top > 0 else torch.zeros_like(heat)
    colours = torch.from_numpy(matplotlib.colormaps["inferno"](heat.numpy())[..., :3]).float()
    alpha = (opacity * heat)[..., None]
    mixed = pixels.permute(1, 2, 0) * (1 - alpha) + colours * alpha
    return (mixed.clamp(0, 1) * 255).round().byte().numpy()


def png(pixels: np.ndarray | Tensor) -> bytes:
    """PNG bytes of a uint8 array (H, W, 3), or of a uint8 tensor (3, H, W)."""
    from PIL import Image

    array = pixels.permute(1, 2, 0).contiguous().numpy() if isinstance(pixels, Tensor) else pixels
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
