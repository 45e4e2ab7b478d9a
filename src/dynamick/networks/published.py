"""Files without the weights that somebody else publishes: of a frozen network, the learnt units and their head are enough."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamick.errors import InputError
from dynamick.networks.source import Source

SHIPPED = Path(__file__).parents[1] / "weights"
"""Files that come with the package. Each one's name, without its ending, stands for it in every command."""


def shipped(name: str | Path) -> Path | None:
    """The file that comes with the package under that name; None if there is none."""
    return {file.stem: file for file in SHIPPED.glob("*.safetensors")}.get(str(name))


def without_published(source: Source, name: str, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A state dict without the weights that are those that the source publishes of a network, and what stands for them.

    Raises:
        InputError: the source publishes none, or they are not installed.
    """
    base = _published(source, name)
    same = [each for each, tensor in tensors.items() if each in base and _is_same(base[each], tensor)]
    about = {"names": same, "sha256": _digest({each: tensors[each] for each in same})}
    return {each: tensor for each, tensor in tensors.items() if each not in same}, about


def with_published(path: Path, source: Source, name: str, tensors: dict[str, Tensor], about: Any) -> dict[str, Tensor]:
    """The whole state dict of a file that `without_published` is in.

    Raises:
        InputError: the weights are not installed (it says which package has them), or they are not those of the file.
    """
    base = _published(source, name)
    try:
        rest = {str(each): base[each] for each in about["names"]}
        same = _digest(rest) == about["sha256"]
    except (KeyError, TypeError):
        same = False
    if not same:
        raise InputError(f"{path}: was made with other weights of {name} than those that are installed; install the same")
    return {**tensors, **rest}


def _published(source: Source, name: str) -> dict[str, Tensor]:
    if source.published is None:
        raise InputError(f"model {name}: nobody publishes its weights; save all of them")
    base: dict[str, Tensor] = source.published(name)[0].state_dict()
    return base


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())


def _digest(tensors: dict[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()
