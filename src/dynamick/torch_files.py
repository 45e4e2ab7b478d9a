"""PyTorch's files, read without running anything that is in them."""

import warnings
from pathlib import Path
from typing import Any

import torch


def read_torch_file(path: str | Path) -> Any:
    """What `torch.save` wrote: tensors and plain values, on the CPU. Objects of other types are refused: they could run code.

    PyTorch's remarks on how odd a file is are kept back: who reads it says what is wrong, in one line.

    Raises:
        pickle.UnpicklingError: it holds other objects.
        Exception: it is no such file, or damaged; PyTorch raises errors of many types.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)
