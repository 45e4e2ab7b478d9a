"""The network inside what PyTorch wraps round it."""

import torch
from torch import nn

from dynamick.errors import InputError


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, of one that torch.compile, DataParallel or DistributedDataParallel holds.

    Layers then have the names that the user gave them. It is the same network: its parameters are shared.
    """
    while True:
        inside = getattr(model, "_orig_mod", None)
        if inside is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inside = model.module
        if not isinstance(inside, nn.Module):
            return model
        model = inside


def check_hooks(model: nn.Module) -> None:
    """Raise InputError for TorchScript: its layers are compiled away, so nobody can see what they put out."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise InputError("model: TorchScript, which hides what its layers put out; give the model that it was made from")
