"""Weights as one safetensors file with the model's configuration inside: that file alone rebuilds the model."""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from dynamick import models
from dynamick.errors import InputError
from dynamick.files import write_atomically
from dynamick.preprocessing import Preprocessing

KEY = "dynamick"


def save(model: nn.Module, path: str | Path, extra: dict[str, Any] | None = None) -> None:
    """Write a model's weights and configuration to one safetensors file, whole or not at all.

    Args:
        model: made by `dynamick.models.create`; its classifier may have been converted or reverted since.
        path: the file; a file that is there stays until the new one is complete.
        extra: plain values kept beside the configuration, under "extra" (how it was trained, what it reached).

    Raises:
        InputError: the model was not made there, or was changed so that no configuration rebuilds it.
        OSError: the file cannot be written.
    """
    if not isinstance(model, models.Network) or not hasattr(model, "config"):
        raise InputError(f"save: a {type(model).__name__} has no config; save models made by dynamick.models.create")
    config = models.current_config(model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {KEY: json.dumps({**config, "extra": extra or {}})}
    write_atomically(Path(path), safetensors.torch.save(tensors, metadata))


def load(path: str | Path) -> nn.Module:
    """The model in such a file, in evaluation mode on the CPU.

    Raises:
        InputError: the file is missing, damaged, or holds weights of another architecture than it says.
    """
    config = read_config(path)
    try:
        config.pop("extra", None)
        name = config.pop("model")
        preprocessing = Preprocessing.from_dict(config.pop("preprocessing"))
        model = models.create(name, preprocessing=preprocessing, **config)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: its configuration builds no model ({error}); it may be damaged") from None
    try:
        # Assigned, for the model may be of another precision than a new one; copied, for what is read lives in the file.
        model.load_state_dict({name: tensor.clone() for name, tensor in _read_tensors(path).items()}, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise InputError(f"{path}: its weights do not fit the {name} that it says it is ({first})") from None
    return model.eval()


def read_config(path: str | Path) -> dict[str, Any]:
    """The configuration inside a file: `dynamick.models.create`'s arguments, and "extra".

    Raises:
        InputError: the file is missing or damaged, or dynamick did not write it.
    """
    if Path(path).is_dir():
        raise InputError(f"{path}: a folder; give the file of weights in it, such as {Path(path) / 'last.safetensors'}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the safetensors file of a trained model") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: no readable safetensors file ({error}); it may be truncated or damaged") from None
    if KEY not in metadata:
        raise InputError(f"{path}: no dynamick configuration inside; give a file that dynamick saved")
    try:
        config: dict[str, Any] = {"extra": {}, **json.loads(metadata[KEY])}
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: its configuration cannot be read ({error}); it may be damaged") from None
    return config


def _read_tensors(path: str | Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: no readable safetensors file ({error}); it may be truncated or damaged") from None
