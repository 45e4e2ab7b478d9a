"""The saved state of a dissection: whole or absent, and only for the configuration that it was made with."""

import io
import math
import shutil
import time
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamick import processes
from dynamick.dissection.counting import Counts
from dynamick.dissection.first_pass import FirstPass
from dynamick.errors import InputError
from dynamick.files import take_leftovers_away, write_atomically
from dynamick.torch_files import read_torch_file

SAVE_EVERY = 30.0
"""Seconds between two saves."""


def own_folder(state: str | Path) -> Path:
    """Where this process keeps its part of a dissection's state."""
    return Path(state) / f"process-{processes.rank()}-of-{processes.world()}"


class Saved:
    """Saves both passes of a dissection in a folder, one a process; without a folder it does nothing.

    Args:
        folder: where; None saves nothing.
        config: what the state depends on, as plain values.
        restart: drop what is there.

    Attributes:
        folder: this process's own folder.
        counted: how many batches have been counted.

    Raises:
        InputError: the folder holds the state of another configuration; the message names what differs.
    """

    def __init__(self, folder: str | Path | None, config: dict[str, Any], restart: bool = False) -> None:
        self.folder = own_folder(folder) if folder else None
        self.config, self.counted = config, 0
        self._last = time.monotonic()
        self._state: dict[str, Any] | None = None
        if self.folder is None:
            return
        if restart:
            # The folder itself stays: it may hold the lock that keeps other processes out.
            (self.folder / "state.pt").unlink(missing_ok=True)
            shutil.rmtree(self.folder / "maps", ignore_errors=True)
            # Also what runs with another number of processes left. This run's other processes remove their own.
            for each in self.folder.parent.glob("process-*"):
                if not each.name.endswith(f"-of-{processes.world()}"):
                    shutil.rmtree(each, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Of a process that was killed while it saved.
        for each in (self.folder, self.folder / "maps"):
            if each.is_dir():
                take_leftovers_away(each)
        path = self.folder / "state.pt"
        if path.exists():
            self._state = self._read(path)
        elif not restart and (others := sorted(self.folder.parent.glob("process-*/state.pt"))):
            # Another number of processes cannot go on from it, but its configuration must be the same.
            self._read(others[0])

    def _read(self, path: Path) -> dict[str, Any]:
        """A saved state of this configuration."""
        try:
            state: dict[str, Any] = read_torch_file(path)
            before = state["config"]
        except Exception as error:
            raise InputError(f"{path}: is not the state of a dissection; remove it") from error
        differing = [
            f"{name} {before.get(name)!r}, now {value!r}"
            for name, value in self.config.items()
            if not _same(before.get(name), value)
        ]
        if differing:
            raise InputError(
                f"{path.parent.parent}: holds another configuration's dissection ({'; '.join(differing)}); "
                "give another folder, or remove this one"
            )
        return state

    @property
    def maps_folder(self) -> Path | None:
        """Where surviving maps are kept beside the state."""
        return self.folder / "maps" if self.folder else None

    def resume(self, first: FirstPass, counts: Counts) -> None:
        """Bring both passes to where the saved state left them."""
        if self._state is None or self.folder is None:
            return
        state, self._state = self._state, None
        try:
            for name, whole in (("first", first), ("counts", counts)):
                _check_form(state[name], whole.state_dict())
            # States of before have none.
            if state.get("checksum", checksum(state)) != checksum(state):
                raise ValueError("other values than were saved")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.folder / 'state.pt'}: is not the state of a dissection; remove it") from error
        first.load_state_dict(state["first"])
        counts.load_state_dict(state["counts"])
        self.counted = state["counted"]

    def save(self, first: FirstPass, counts: Counts, now: bool = False) -> None:
        """Save, if it is time to or `now`."""
        if self.folder is None or not (now or time.monotonic() - self._last > SAVE_EVERY):
            return
        buffer = io.BytesIO()
        state = {"config": self.config, "first": first.state_dict(), "counts": counts.state_dict(), "counted": self.counted}
        torch.save(state | {"checksum": checksum(state)}, buffer)
        write_atomically(self.folder / "state.pt", buffer.getvalue(), durable=False)
        self._last = time.monotonic()

    def drop_maps(self) -> None:
        """Remove the surviving maps: everything has been counted."""
        if self.maps_folder:
            shutil.rmtree(self.maps_folder, ignore_errors=True)


def recorded(folder: Path) -> tuple[int, int] | None:
    """How many images and concepts a dissection's `state/` says that it saw; None if there is none.

    Raises:
        InputError: what is there is not such a state.
    """
    for path in sorted(folder.glob("process-*/state.pt")):
        try:
            state = read_torch_file(path)
            return int(state["config"]["images"]), len(state["counts"]["sizes"])
        except Exception as error:
            raise InputError(f"{path}: is not the state of a dissection; remove it") from error
    return None


def checksum(state: dict[str, Any]) -> int:
    """Of all that is counted in a state."""
    found = zlib.crc32(repr(state["counted"]).encode())
    for name in ("first", "counts"):
        found = _checksum(state[name], found)
    return found


def _checksum(value: Any, before: int) -> int:
    if isinstance(value, dict):
        for name in sorted(value):
            before = _checksum(value[name], before)
        return before
    return zlib.crc32(value.contiguous().numpy().data if isinstance(value, Tensor) else repr(value).encode(), before)


def _check_form(state: Any, like: Any) -> None:
    """Raise ValueError unless a state has the same names, kinds, shapes and types of numbers as another one."""
    if isinstance(like, dict):
        if not isinstance(state, dict) or state.keys() != like.keys():
            raise ValueError("other names")
        for name in like:
            _check_form(state[name], like[name])
    elif isinstance(like, Tensor):
        if not isinstance(state, Tensor) or (state.shape, state.dtype) != (like.shape, like.dtype):
            raise ValueError("another tensor")
    elif type(state) is not type(like):
        raise ValueError("another kind of value")


def _same(before: Any, now: Any) -> bool:
    """Whether they are equal. Activations only to three digits: another machine sums them in another order."""
    if isinstance(before, float) and isinstance(now, float):
        return math.isclose(before, now, rel_tol=1e-3)
    return bool(before == now)
