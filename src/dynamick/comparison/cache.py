"""What enters a network's classifier, kept on disk: one pass over the images, then heads train in seconds."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynamick.data.labelled import LabelledImages
from dynamick.errors import InputError
from dynamick.files import why_no_folder, write_atomically
from dynamick.nn import find_classifier
from dynamick.preprocessing import Preprocessing
from dynamick.progress import bar

STATE = "cache.json"
LOCK = ".lock"
DTYPES = ("float32", "bfloat16")
CHUNK = 1024
"""So many images are computed, written and checksummed at a time: what an interruption can lose."""

Prepare = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Features:
    """Features of labelled images.

    Attributes:
        x: float32, shape (N, M); memory-mapped where the cache holds float32.
        labels: int64, shape (N,).
        classes: their names.
        names: a name for each image.
    """

    x: Tensor
    labels: Tensor
    classes: list[str]
    names: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def cache_features(
    model: nn.Module,
    data: LabelledImages,
    folder: str | Path,
    preprocessing: Preprocessing | None = None,
    dtype: str = "float32",
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    progress: bool = False,
    layer: str | None = None,
) -> Features:
    """The features that enter a model's classifier, computed once and kept in a folder.

    An interrupted run goes on where it stopped. A cache belongs to one model, its weights (but for the classifier's, which do
    not change what enters it), its preprocessing and its images; all of them are checked, and its own checksums.

    Args:
        model: any whose classifier is a linear layer that sees one vector an image; run in evaluation mode.
        data: images in memory, or in folders and decoded as needed.
        folder: `features.npy` (N x M; bfloat16 as its bits, uint16), `labels.npy` and `cache.json`; one process fills it at a
            time.
        preprocessing: None takes the model's own.
        dtype: `float32`, or `bfloat16` at half the size and 8 bits of precision.
        batch_size: images a forward pass.
        device: where the model runs.
        progress: show images a second and the time left on stderr.
        layer: the classifier's dotted name; None takes the last linear layer (`dynamick.nn.find_classifier`).

    Raises:
        InputError: the folder holds features of another model, preprocessing or data, or is damaged; a class has no image, or a
            label no class; a feature is NaN or infinite (the message names image and unit); the classifier does not see one
            vector an image, or its output is not the model's; another process
            fills the folder; it cannot be written, or the disk is full.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype: {dtype!r} is unknown; give {' or '.join(DTYPES)}")
    prepare = preprocessing or getattr(model, "preprocessing", None)
    if prepare is None:
        raise InputError("features: the model does not say how its images are prepared; give a Preprocessing")
    labels = data.labels.cpu()
    check_classes(labels, data.classes)
    folder = Path(folder)
    layer = find_classifier(model) if layer is None else layer
    key = _key(model, data, prepare, dtype, layer)
    if not _is_filled(_open_state(folder, key), data):
        if (why := why_no_folder(folder)) is not None:
            raise InputError(f"{folder}: cannot be written ({why}); give another")
        with _alone(folder):
            # Another process may have filled it in between.
            state = _open_state(folder, key)
            if not _is_filled(state, data):
                _fill(folder, state, _chunks(model.to(device).eval(), layer, data, prepare, batch_size, state), data, progress)
    return open_features(folder)


def open_features(folder: str | Path) -> Features:
    """A finished cache, held to its checksums.

    Raises:
        InputError: it is missing, unfinished, truncated or damaged.
    """
    folder = Path(folder)
    state = read_state(folder)
    rows, units = state["shape"]
    if len(state["chunks"]) * CHUNK < rows:
        raise InputError(f"{folder}: {len(state['chunks']) * CHUNK} of {rows} images are done; run the same command to go on")
    stored, labels = _map(folder / "features.npy", (rows, units)), _map(folder / "labels.npy", (rows,))
    for number, expected in enumerate(state["chunks"]):
        _check_chunk(folder, stored, number, expected)
    if _sha(labels) != state["labels"]:
        raise InputError(f"{folder}/labels.npy: does not match its checksum; take the folder away and run again")
    x = torch.from_numpy(stored)
    return Features(
        x.view(torch.bfloat16).float() if state["key"]["dtype"] == "bfloat16" else x,
        torch.from_numpy(labels),
        state["classes"],
        state["names"],
    )


def read_state(folder: Path) -> dict[str, Any]:
    """A cache's `cache.json`: its key, shape, checksums, classes and names.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
    except FileNotFoundError:
        raise InputError(f"{folder}: no feature cache; give a folder that cache_features wrote") from None
    except OSError as error:
        raise InputError(f"{folder}/{STATE}: cannot be read ({error.strerror}); give a folder of your own") from None
    except ValueError as error:
        raise InputError(f"{folder}/{STATE}: damaged ({error}); take the folder away and run again") from None
    if not _is_state(state):
        raise InputError(f"{folder}/{STATE}: no feature cache's state; take the folder away and run again")
    return state


def check_classes(labels: Tensor, classes: list[str]) -> None:
    """Every class has an image, and every label, shape (N,), a class.

    Raises:
        InputError: it names the first label out of range, or the classes that have no image.
    """
    odd = ((labels < 0) | (labels >= len(classes))).nonzero()
    if len(odd):
        row = int(odd[0])
        raise InputError(f"labels: {labels[row].item()} of image {row} is no class; give 0 to {len(classes) - 1}")
    counts = torch.bincount(labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
    if empty:
        raise InputError(f"classes: no image of {', '.join(empty[:5])}; give each class one or more, or take it away")


def _open_state(folder: Path, key: dict[str, str]) -> dict[str, Any]:
    if not (folder / STATE).exists():
        return {"key": key, "chunks": []}
    state = read_state(folder)
    for name, value in key.items():
        if state["key"].get(name) != value:
            raise InputError(f"{folder}: made with another {name} than is given now; give another folder or take this one away")
    return state


def _is_state(state: Any) -> bool:
    kinds = {"key": dict, "chunks": list, "shape": list, "labels": str, "classes": list, "names": list}
    return (
        isinstance(state, dict)
        and all(isinstance(state.get(name), kind) for name, kind in kinds.items())
        and [type(size) for size in state["shape"]] == [int, int]
        and {"weights", "data", "dtype"} <= set(state["key"])
    )


def _is_filled(state: dict[str, Any], data: LabelledImages) -> bool:
    return len(state["chunks"]) * CHUNK >= len(data)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder; the lock vanishes with this process. A folder that stays empty is taken away."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); give another") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another process is filling this; wait for it, or give another folder") from None
        except OSError:
            # A file system without locks.
            pass
        try:
            yield
        finally:
            _tidy(folder, new)


def _tidy(folder: Path, new: list[Path]) -> None:
    with contextlib.suppress(OSError):
        if [each.name for each in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            for each in new:
                each.rmdir()


def _fill(
    folder: Path,
    state: dict[str, Any],
    chunks: Iterator[Tensor],
    data: LabelledImages,
    progress: bool,
) -> None:
    """Write what is not done yet."""
    done, names = len(state["chunks"]), data.names
    with bar("/".join(folder.absolute().parts[-2:]), len(data), done * CHUNK, progress) as shown:
        for number, x in enumerate(chunks, done):
            first = number * CHUNK
            _check_finite(x, names[first : first + len(x)])
            stored = x.bfloat16().view(torch.uint16).numpy() if state["key"]["dtype"] == "bfloat16" else x.numpy()
            try:
                if number == 0:
                    _begin(folder, state, data, stored)
                _write_rows(folder / "features.npy", (len(data), stored.shape[1]), first, stored)
                # The state goes last: what it says is done has been written.
                state["chunks"].append(_sha(stored))
                write_atomically(folder / STATE, json.dumps(state).encode())
            except OSError as error:
                if number == 0:
                    _take_back(folder)
                raise _no_room(folder, error, len(data) * stored[0].nbytes) from error
            shown.update(len(x))


def _begin(folder: Path, state: dict[str, Any], data: LabelledImages, stored: np.ndarray[Any, Any]) -> None:
    labels = data.labels.cpu().numpy()
    np.lib.format.open_memmap(folder / "features.npy", "w+", stored.dtype, (len(data), stored.shape[1]))
    _reserve(folder / "features.npy")
    np.save(folder / "labels.npy", labels)
    state.update(shape=[len(data), stored.shape[1]], labels=_sha(labels), classes=list(data.classes), names=data.names)


def _reserve(path: Path) -> None:
    """Take the space of a sparse file at once: a disk too small is told before hours of work."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            # Some file systems cannot.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


def _write_rows(path: Path, shape: tuple[int, int], first: int, rows: np.ndarray[Any, Any]) -> None:
    # Not through the map: there a full disk kills the process.
    place = _map(path, shape).offset + first * rows[0].nbytes
    with path.open("r+b") as file:
        file.seek(place)
        file.write(np.ascontiguousarray(rows).data)
        file.flush()
        os.fsync(file.fileno())


def _take_back(folder: Path) -> None:
    """Remove what a cache just begun has written: it says nothing yet."""
    for name in ("features.npy", "labels.npy"):
        (folder / name).unlink(missing_ok=True)


def _no_room(folder: Path, error: OSError, needed: int) -> InputError:
    free = shutil.disk_usage(folder).free
    return InputError(
        f"{folder}: cannot be written ({error.strerror}); its features need {needed / 1e6:.1f} MB in all, and "
        f"{free / 1e6:.1f} MB are free; make room and run the same command again, or give another folder"
    )


@torch.no_grad()
def _chunks(
    model: nn.Module,
    layer: str,
    data: LabelledImages,
    prepare: Prepare,
    batch_size: int,
    state: dict[str, Any],
) -> Iterator[Tensor]:
    """Features of CHUNK images at a time, float32 on the CPU, from the first chunk that is not done on."""
    caught: list[tuple[Tensor, Tensor]] = []
    classifier: Any = model.get_submodule(layer)
    hook = classifier.register_forward_hook(lambda _, inputs, y: caught.append((inputs[0], y)))
    # The classifier may be of another precision than what comes before it.
    body = (each for name, each in model.named_parameters() if each.is_floating_point() and not name.startswith(f"{layer}."))
    like = next(body, classifier.weight)
    try:
        for first in range(len(state["chunks"]) * CHUNK, len(data), CHUNK):
            rows = []
            end = min(first + CHUNK, len(data))
            for start in range(first, end, batch_size):
                images, _ = data.take(range(start, min(start + batch_size, end)))
                output = model(prepare(images.to(like.device)).to(like.dtype))
                seen = [tuple(x.shape) for x, _ in caught]
                if len(seen) != 1 or len(seen[0]) != 2 or seen[0][0] != len(images):
                    raise InputError(
                        f"features: {layer!r} sees {seen} of {len(images)} images; it must see a vector of each; "
                        "name the layer that puts out the logits (--layer)"
                    )
                x, y = caught.pop()
                if not _puts_out(output, y):
                    raise InputError(
                        f"features: the output of {layer!r} is not the model's; name the layer that puts out the logits "
                        "(--layer), or give a model that returns them"
                    )
                rows.append(x.float().cpu())
            yield torch.cat(rows)
    finally:
        hook.remove()


def _puts_out(output: Any, y: Tensor) -> bool:
    """Whether a model's output, or a part of it, is these logits or what is usually made of them."""
    if not isinstance(output, Tensor):
        named = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
        parts = output if isinstance(output, tuple | list) else named.values()
        return any(_puts_out(part, y) for part in parts if isinstance(part, Tensor))
    if output.shape != y.shape:
        return False
    rtol = 1e-3 if y.dtype in (torch.float32, torch.float64) else 2e-2
    forms = (lambda y: y, torch.sigmoid, lambda y: y.softmax(1), lambda y: y.log_softmax(1))
    return any(torch.allclose(output.float(), form(y.float()), rtol=rtol, atol=1e-5, equal_nan=True) for form in forms)


def _check_finite(x: Tensor, names: list[str]) -> None:
    bad = (~x.isfinite()).nonzero()
    if len(bad):
        row, unit = bad[0].tolist()
        raise InputError(
            f"features: {x[row, unit].item()} at unit {unit} of {names[row]} ({len(bad)} such values); "
            "mend the model or the image"
        )


def _key(model: nn.Module, data: LabelledImages, prepare: Prepare, dtype: str, head: str) -> dict[str, str]:
    """What a cache belongs to; the names are those of a refusal's message."""
    # Neither the classifier's weights nor its form change what enters it.
    parts = [f"{type(module).__name__}({module.extra_repr()})" for name, module in model.named_modules() if name != head]
    return {
        # Addresses and devices differ between runs of the same model.
        "model": re.sub(r" at 0x[0-9a-f]+| \(GPU \d+\)", "", f"{head} of {' '.join(parts)}"),
        "weights": weights_digest(model, head),
        "preprocessing": json.dumps(prepare.to_dict()) if isinstance(prepare, Preprocessing) else repr(prepare),
        "data": data.fingerprint(),
        "dtype": dtype,
    }


def weights_digest(model: nn.Module, without: str | None = None) -> str:
    """A checksum of a model's weights; `without` names a module that does not count."""
    sha = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if without is None or not name.startswith(f"{without}."):
            sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha.hexdigest()


def _map(path: Path, shape: tuple[int, ...]) -> Any:
    """A file's array, memory-mapped, copy on write: tensors over it may be written to without changing the file."""
    try:
        stored = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: truncated or damaged ({error}); take the folder away and run again") from None
    if stored.shape != shape:
        raise InputError(f"{path}: its shape is {stored.shape}, not {shape}; take the folder away and run again")
    return stored


def _check_chunk(folder: Path, stored: np.ndarray[Any, Any], number: int, expected: str) -> None:
    rows = stored[number * CHUNK : (number + 1) * CHUNK]
    if _sha(rows) != expected:
        raise InputError(
            f"{folder}/features.npy: rows {number * CHUNK} to {number * CHUNK + len(rows) - 1} do not match their checksum; "
            "take the folder away and run again"
        )


def _sha(values: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
