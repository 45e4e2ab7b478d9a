"""What enters a network's classifier for some images, and how to tell two networks apart."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.networks.running import like_input, puts_out, right_channels
from dynamick.preprocessing import Preprocessing, check_range

Prepare = Callable[[Tensor], Tensor]


@torch.no_grad()
def entering(model: nn.Module, layer: str, prepare: Prepare, images: Tensor, names: Sequence[str]) -> Tensor:
    """What enters a classifier for some images: float32, shape (B, M), on the CPU.

    Args:
        model: in evaluation mode.
        layer: the classifier's dotted name.
        prepare: as the model's images are prepared.
        images: uint8, shape (B, 3, H, W).
        names: one for each image, for messages.

    Raises:
        InputError: the classifier does not see one vector an image, or its output is not the model's; a value is NaN or
            infinite (the message names image and unit).
    """
    caught: list[tuple[Tensor, Tensor]] = []
    classifier: Any = model.get_submodule(layer)
    like = like_input(model, layer)
    check_range(images)
    hook = classifier.register_forward_hook(lambda _, inputs, y: caught.append((inputs[0], y)))
    try:
        # Convolutions are faster with the channels next to each other, in memory; the numbers are the same within rounding.
        prepared = prepare(images.to(like.device)).to(like.dtype, memory_format=torch.channels_last)
        with right_channels(model, prepared.shape[1]):
            output = model(prepared)
    finally:
        hook.remove()
    seen = [tuple(x.shape) for x, _ in caught]
    if len(seen) != 1 or len(seen[0]) != 2 or seen[0][0] != len(images):
        raise InputError(
            f"features: {layer!r} sees {seen} of {len(images)} images; it must see a vector of each; "
            "name the layer that puts out the logits (--layer)"
        )
    x, y = caught[0]
    if not puts_out(output, y):
        raise InputError(
            f"features: the output of {layer!r} is not the model's; name the layer that puts out the logits "
            "(--layer), or give a model that returns them"
        )
    _check_finite(x, names)
    return x.float().cpu()


def _check_finite(x: Tensor, names: Sequence[str]) -> None:
    bad = (~x.isfinite()).nonzero()
    if len(bad):
        row, unit = bad[0].tolist()
        raise InputError(
            f"features: {x[row, unit].item()} at unit {unit} of {names[row]} ({len(bad)} such values); "
            "mend the model or the image"
        )


def network_key(model: nn.Module, layer: str, prepare: Prepare) -> dict[str, str]:
    """Everything that decides what enters a classifier. The names are used in messages."""
    # Neither the classifier's weights nor its form change what enters it.
    parts = [f"{type(module).__name__}({module.extra_repr()})" for name, module in model.named_modules() if name != layer]
    return {
        # Addresses and devices differ between runs of the same model.
        "model": re.sub(r" at 0x[0-9a-f]+| \(GPU \d+\)", "", f"{layer} of {' '.join(parts)}"),
        "weights": weights_digest(model, layer),
        "preprocessing": json.dumps(prepare.to_dict()) if isinstance(prepare, Preprocessing) else repr(prepare),
    }


def weights_digest(model: nn.Module, without: str | None = None) -> str:
    """A checksum of a model's weights; `without` names a module that does not count."""
    sha = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if without is None or not name.startswith(f"{without}."):
            sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha.hexdigest()
