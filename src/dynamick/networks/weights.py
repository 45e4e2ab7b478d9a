"""Files of weights as people keep them, read without running anything: checkpoints of any training, and what is in them."""

import argparse
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from dynamick.errors import InputError
from dynamick.torch_files import read_torch_file

ADVICE = "give a state dict, saved by torch.save(model.state_dict(), FILE)"
WHOLE = "a whole model, or no weights at all"
KEYS = ("", "state_dict", "model", "model_state_dict", "model_state", "net", "network", "module", "params", "weights")
"""Under these keys checkpoints hold a state dict; the first that fits is taken."""
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema", "averaged_model")
"""Weights averaged over a training; taken where there are no others."""
OTHERS = ("optim", "sched", "scaler", "loss", "rng", "callback", "loop")
"""What so begins beside the weights holds tensors too, and no weights of a network."""
DEPTH = 3
"""So deep a state dict may lie."""
ARCHIVES = {
    "constants.pkl": "TorchScript, which holds a program; save the state_dict() of the model that it was made from",
    "serialized_exported_program.json": "an exported program; save the state_dict() of the model that it was made from",
    "archive_format": "an exported program; save the state_dict() of the model that it was made from",
}
"""Files in archives that torch.load does not take, and what such an archive is."""


class _Foreign:
    """Stands for whatever else a training keeps beside its weights: an object of a class that is not imported here."""

    def __new__(cls, *_: Any, **__: Any) -> "_Foreign":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_weights(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """The state dicts in a file by the keys that lead to them, the likeliest first; "" is the file itself.

    Nothing in the file is run: what is no tensor, number or text becomes an empty stand-in.

    Raises:
        InputError: there is no such file, it cannot be read, or it holds no state dict.
    """
    read = _read(Path(path))
    found = dict(_state_dicts(read))
    if not found:
        whole = isinstance(read, _Foreign) or (
            isinstance(read, dict) and any(isinstance(read.get(key), _Foreign) for key in KEYS)
        )
        kind = WHOLE if whole else f"holds a {type(read).__name__}, and no state dict"
        raise InputError(f"{path}: {kind}; {ADVICE}")
    return {key: found[key] for key in sorted(found, key=_rank)}


def is_usual(key: str) -> bool:
    """Whether checkpoints hold a network's weights under that key, so that it counts before others."""
    return key.rpartition(".")[2] in (*KEYS, *AVERAGED)


def _rank(key: str) -> int:
    """How likely a network's weights lie there."""
    last = key.rpartition(".")[2]
    order = [*KEYS, None, *AVERAGED]
    return order.index(last if last in order else None)


def _state_dicts(read: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(read, dict):
        return
    tensors = {str(name): value for name, value in read.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if tensors:
        extra = {name: value for name, value in read.items() if isinstance(name, str) and name.endswith("_extra_state")}
        yield key, tensors | extra
    for name, value in read.items():
        if depth < DEPTH and isinstance(name, str) and not name.lower().startswith(OTHERS):
            yield from _state_dicts(value, f"{key}.{name}" if key else name, depth + 1)


def _read(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # What PyTorch thinks of old files helps nobody here.
            warnings.simplefilter("ignore")
            if path.suffix == ".safetensors" or _is_safetensors(path):
                return load_file(path)
            _check_archive(path)
            return _load(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {ADVICE}") from None
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: {WHOLE}; {ADVICE}") from error
    except Exception as error:
        reason = " ".join(str(error).split()).split(". ")[0][:200]
        raise InputError(f"{path}: cannot be read, it may be truncated or damaged ({reason}); {ADVICE}") from error


def _is_safetensors(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, "pt"):
            return True
    except (safetensors.SafetensorError, OSError):
        return False


def _check_archive(path: Path) -> None:
    """Raise InputError for archives of other kinds."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    for name, kind in ARCHIVES.items():
        if name in names:
            raise InputError(f"{path}: {kind}")


def _load(path: Path) -> Any:
    # Trainings keep their options and figures beside the weights: torchvision's a Namespace, many NumPy's numbers.
    numbers = [np.dtype, *{type(np.dtype(each)) for each in "?bhilqBHILQefd"}]
    scalar: Any = np.float64(0).__reduce__()[0]
    harmless: list[Any] = [argparse.Namespace, *numbers, scalar, (scalar, "numpy.core.multiarray.scalar")]
    try:
        return _load_safely(path, harmless)
    except pickle.UnpicklingError:
        strange = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        if not strange:
            raise
    # Classes by their names alone, never imported; a dictionary's stand-in must be one.
    likely = [(OrderedDict if name.endswith("Dict") else _Foreign, name) for name in strange]
    try:
        return _load_safely(path, [*harmless, *likely])
    except pickle.UnpicklingError:
        return _load_safely(path, [*harmless, *((OrderedDict, name) for name in strange)])


def _load_safely(path: Path, harmless: list[Any]) -> Any:
    with torch.serialization.safe_globals(harmless):
        return read_torch_file(path)
