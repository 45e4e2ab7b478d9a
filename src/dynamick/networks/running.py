"""Running anybody's network under hooks: the network inside what PyTorch wraps round it, and what hides its layers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.ops import torch_internals


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, of one that torch.compile, DataParallel or DistributedDataParallel holds.

    Layers then have the names that the user gave them. It is the same network: its parameters are shared.
    """
    while True:
        inside = torch_internals.compiled_inside(model)
        if inside is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inside = model.module
        if not isinstance(inside, nn.Module):
            return model
        model = inside


def check_hooks(model: nn.Module) -> None:
    """Raise InputError for TorchScript: its layers are compiled away, so nobody can see what they put out."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise InputError("model: TorchScript, which hides what its layers put out; give the model that it was made from")


@contextmanager
def right_channels(model: nn.Module, channels: int = 3) -> Iterator[None]:
    """When a forward pass in the body fails, say so if it is because the network takes images of other channels.

    Args:
        model: the network.
        channels: of the images that it is given.

    Raises:
        InputError: its first convolution takes another number; the message says what helps.
    """
    try:
        yield
    except RuntimeError as error:
        wanted = next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), channels)
        if wanted == channels:
            raise
        gray = "give --mean and --std of one number each (Preprocessing(mean=(m,), std=(s,)))"
        helps = gray if wanted == 1 else "only networks for images of three channels, or of one, are served"
        raise InputError(
            f"model: takes images of {wanted} channel{'s' * (wanted != 1)}, and is given {channels}; {helps}"
        ) from error


def whole(parameter: Tensor) -> Tensor:
    """The values of a parameter, detached; of one that `fully_shard` has divided, those of all processes."""
    values = parameter.detach()
    full_tensor = getattr(values, "full_tensor", None)
    return values if full_tensor is None else full_tensor()


def puts_out(output: Any, logits: Tensor) -> bool:
    """Whether a network's output, or a part of it, is these logits or what is usually made of them (their softmax, ...)."""
    if not isinstance(output, Tensor):
        named = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
        parts = output if isinstance(output, tuple | list) else named.values()
        return any(puts_out(part, logits) for part in parts if isinstance(part, Tensor))
    if logits.shape[1:] == (1,) and output.numel() == len(logits):
        # One logit an image, whose axis many networks leave out.
        output = output.reshape(logits.shape)
    if output.shape != logits.shape:
        return False
    rtol = 1e-3 if logits.dtype in (torch.float32, torch.float64) else 2e-2
    y = logits.float()
    forms = (y, y.sigmoid(), y.softmax(1), y.log_softmax(1))
    return any(torch.allclose(output.float(), form, rtol=rtol, atol=1e-5, equal_nan=True) for form in forms)


def logits_of(output: Any) -> Tensor:
    """The logits in what a network puts out: the tensor itself, else its `logits` or `out`, else the first part.

    Raises:
        InputError: there are none.
    """
    if isinstance(output, Tensor):
        return output
    named = output if isinstance(output, dict) else {key: getattr(output, key, None) for key in ("logits", "out")}
    found = next((named[key] for key in ("logits", "out") if isinstance(named.get(key), Tensor)), None)
    if found is None and isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        found = output[0]
    if found is None:
        raise InputError(f"model: puts out a {type(output).__name__} without logits; it must put out a tensor (B, classes)")
    return found


def like_input(model: nn.Module, head: str) -> Tensor:
    """A weight whose device and precision the network's input must have: the head may be of another than what is before it."""
    body = (each for name, each in model.named_parameters() if each.is_floating_point() and not name.startswith(f"{head}."))
    found = next(body, None)
    return model.get_submodule(head).get_parameter("weight") if found is None else found
