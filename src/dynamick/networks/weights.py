"""State dicts as people keep them: read without running anything, and put into a model."""

import argparse
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dynamick.errors import InputError

ADVICE = "give a state dict, saved by torch.save(model.state_dict(), FILE)"
WRAPPED = "module."


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, also where a checkpoint holds it as `state_dict` or `model`.

    Raises:
        InputError: there is no such file, it cannot be read, or it holds no state dict.
    """
    read = _read(path)
    for name in ("state_dict", "model"):
        if isinstance(read, dict) and isinstance(read.get(name), dict):
            read = read[name]
    if not isinstance(read, dict) or not any(isinstance(value, Tensor) for value in read.values()):
        raise InputError(f"{path}: holds a {type(read).__name__}, and no state dict; {ADVICE}")
    return read


def _read(path: str | Path) -> Any:
    # Trainings keep their options and figures beside the weights: torchvision's a Namespace, many NumPy's numbers.
    numbers = [np.dtype, *{type(np.dtype(each)) for each in "?bhilqBHILQefd"}]
    scalar: Any = np.float64(0).__reduce__()[0]
    harmless = [argparse.Namespace, *numbers, scalar, (scalar, "numpy.core.multiarray.scalar")]
    try:
        with torch.serialization.safe_globals(harmless):
            if str(path).endswith(".safetensors"):
                return load_file(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {ADVICE}") from None
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: a whole model, or no weights at all; {ADVICE}") from error
    except Exception as error:
        reason = " ".join(str(error).split()).split(". ")[0][:200]
        raise InputError(f"{path}: cannot be read, it may be truncated or damaged ({reason}); {ADVICE}") from error


def fitted(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the `module.` that DataParallel puts before every name, unless the model's own begin so."""
    if all(name.startswith(WRAPPED) for name in model.state_dict()) or not all(name.startswith(WRAPPED) for name in tensors):
        return tensors
    return {name.removeprefix(WRAPPED): tensor for name, tensor in tensors.items()}


def put_weights(model: nn.Module, tensors: dict[str, Tensor]) -> str | None:
    """Load a state dict into a model.

    Returns:
        Why it does not fit: the first weight that does not, in words; None if it does.
    """
    try:
        model.load_state_dict(tensors)
    except Exception as error:
        return _misfit(model.state_dict(), tensors) or " ".join(str(error).split())[:200]
    return None


def _misfit(own: dict[str, Tensor], given: dict[str, Tensor]) -> str | None:
    lacking, odd = [name for name in own if name not in given], [name for name in given if name not in own]
    if lacking or odd:
        names, said = (lacking, "they lack") if lacking else (odd, "the model has no")
        return f"{said} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    for name, tensor in own.items():
        found, wanted = (tuple(getattr(each, "shape", ())) for each in (given[name], tensor))
        if found != wanted:
            return f"{name} has the shape {found}, not {wanted}"
    return None


def take_precision(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give each of a model's weights the precision of the tensor that it is to hold; ties between weights stay."""
    own = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, weight in own:
        given = tensors.get(name)
        if given is not None and given.is_floating_point() and weight.is_floating_point() and given.dtype != weight.dtype:
            weight.data = weight.data.to(given.dtype)
