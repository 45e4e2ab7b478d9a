"""The state that a run is resumed from, `last.ckpt`: written whole, and read without running anything that is in it."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from dynamick.errors import InputError
from dynamick.files import write_atomically
from dynamick.torch_files import read_torch_file

KEYS = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops")
"""What a resumed training needs of Lightning's checkpoint."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written so that at every moment the old or the new one is there whole."""

    def save_checkpoint(self, checkpoint_: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint_, buffer)
        write_atomically(Path(path), buffer.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> Any:
        """The checkpoint, read with weights_only: no code in it is run.

        Raises:
            InputError: it is truncated, damaged, or of another kind.
        """
        found, why = _read(Path(path))
        if why is not None:
            raise unreadable(path, why)
        return found


def unreadable(path: str | Path, why: str) -> InputError:
    """What to raise of a state that no training can go on from."""
    return InputError(f"{path}: no readable checkpoint ({why}); take it away, or begin again (--restart)")


def _read(path: Path) -> tuple[Any, str | None]:
    """What a file holds, and what is wrong with it."""
    if not zipfile.is_zipfile(path):
        return None, "it is truncated or damaged, or another program's"
    try:
        found = read_torch_file(path)
    except pickle.UnpicklingError:
        return None, "it holds objects that are not loaded, for they could run code: no training of dynamick's wrote it"
    except Exception as error:
        return None, (str(error) or type(error).__name__).splitlines()[0]
    if not isinstance(found, dict) or (missing := [name for name in KEYS if name not in found]):
        named = f"it has no {missing[0]}" if isinstance(found, dict) else f"a {type(found).__name__}"
        return None, f"it is of another kind than a training's state: {named}"
    for name in ("optimizer_states", "lr_schedulers"):
        # Lightning takes what is there and begins the rest anew.
        if not isinstance(found[name], list) or len(found[name]) != 1:
            return None, f"it is of another kind than a training's state: its {name} are not one"
    return found, None
